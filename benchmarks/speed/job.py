"""Time of a whole job by phase, from the start of the process to its end.

python -m benchmarks.speed.job [--runs 3] [--steps 20] [--script train_dreambooth_lora_sdxl_advanced.py]
    [--launcher FILE]

Two jobs on the embedded base: one with samples and an evaluation of two checkpoints, by phase; and one that diffusers'
advanced SDXL script also supports, alternating with that script if it is given (docs/versus-diffusers.md describes the
common settings). Warm: all files of Python, its packages and the base are in the operating system's cache. Cold: they
have to be read, as on a machine that has just started. CPU time is user and system time, which varies less than wall
time if other processes are running.
"""

import argparse
import json
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.learning.contenders import (
    FASTEST,
    Train,
    demo_job,
    our_training,
    same_job,
    their_training,
    unpack_example,
)
from benchmarks.record import Row, markdown, write_record
from settings.command_line.parser import CommandParser

PROJECT = Path(__file__).resolve().parents[2]
WATCHER = PROJECT / "benchmarks" / "learning" / "watched_script.py"
OURS, THEIRS = "ours", "diffusers' script"

Moment = tuple[float, float]
"""Wall time in seconds since the epoch, and CPU time of the process in seconds."""
Phases = dict[str, Moment]
"""Wall and CPU seconds by phase."""


@dataclass(frozen=True)
class Watched:
    """The moments of one run. `stages`: name and start of each; empty for other programs. `begun`: start of the
    backward passes, at least two."""

    start: Moment
    stages: Sequence[tuple[str, Moment]]
    begun: Sequence[Moment]
    end: Moment

    @classmethod
    def read(cls, file: Path, start: Moment, end: Moment | None = None) -> "Watched":
        """Read the record of benchmarks/learning/watched_script.py. `end`: of the process; None: of the program in
        it."""
        seen = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            start=start,
            stages=[(name, (wall, processor)) for name, (wall, processor) in seen["stages"]],
            begun=[(wall, processor) for wall, processor in seen["backward_begun"]],
            end=end or (seen["end"][0], seen["end"][1]),
        )

    @property
    def phases(self) -> Phases:
        """Moments by stage; that of the steps in two parts, the first of which ends with the second backward pass."""
        stages = [("first step" if name == "train" else name, moment) for name, moment in self.stages]
        return _between([("import", self.start), *stages, ("steps", self.begun[1])], self.end)

    @property
    def parts(self) -> Phases:
        """Before, between and after the backward passes."""
        return _between([("start", self.start), ("steps", self.begun[0]), ("end", self.begun[-1])], self.end)


def main() -> None:
    """Measure, print the tables, write benchmarks/results/job.json and job_beside_script.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="number of runs, of which the tables have medians")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--script", type=Path, help="diffusers' training script")
    parser.add_argument("--launcher", type=Path, help="runs the script if torchvision is not installed")
    given = parser.parse_args()
    settings = {"runs": given.runs, "steps": given.steps}
    with tempfile.TemporaryDirectory() as scratch:
        rows = phases_of_a_job(given.runs, given.steps, Path(scratch))
        print(markdown(rows), flush=True)
        print(write_record("job", rows, settings))
        if given.script is not None:
            script = [path.resolve() for path in (given.launcher, given.script) if path]
            rows = beside_script(script, given.runs, given.steps, Path(scratch))
            print(markdown(rows))
            print(write_record("job_beside_script", rows, settings))


def phases_of_a_job(runs: int, steps: int, scratch: Path) -> list[Row]:
    """A row for each phase of the job with samples and an evaluation; cold and warm runs alternate."""
    watched = scratch / "watched.json"
    evaluated = ["--checkpointing_steps", max(1, steps // 2), "--evaluation_scales", 1, "--num_validation_images", 4]
    train = our_training([*demo_job(), *evaluated], before=[WATCHER, watched])
    found: dict[str, list[Phases]] = {"cold": [], "warm": []}
    for number in range(runs):
        for state, of_state in found.items():
            if state == "cold":
                forget_files([Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")] + [PROJECT])
            of_state.append(_measured(train, scratch / f"{state} {number}", steps, watched).phases)
    return rows_of_phases(found["cold"], found["warm"])


def beside_script(script: Sequence[Path], runs: int, steps: int, scratch: Path) -> list[Row]:
    """A row for each of the two and the medians of their ratios, from alternating runs."""
    watched, photos = scratch / "watched.json", unpack_example(scratch / "photos")
    contenders = {
        THEIRS: their_training([WATCHER, watched, *script], photos, FASTEST),
        OURS: our_training(same_job(), before=[WATCHER, watched]),
    }
    pairs: list[dict[str, Phases]] = []
    for number in range(runs):
        pair: dict[str, Phases] = {}
        for name in sorted(contenders, reverse=number % 2 == 1):
            folder = Path(tempfile.mkdtemp(dir=scratch))
            pair[name] = _measured(contenders[name], folder / "run", steps, watched).parts
        pairs.append({name: pair[name] for name in contenders})
    return rows_of_pairs(pairs)


def forget_files(folders: Sequence[Path]) -> None:
    """Drop the files in these folders from the operating system's cache, except for unwritten data."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _measured(train: Train, folder: Path, steps: int, watched: Path) -> Watched:
    """The measurement of one run."""
    started = time.time()
    usage = train(folder, steps, 0)
    return Watched.read(watched, (started, 0.0), (started + usage.seconds, usage.processor_seconds))


def _between(moments: Sequence[tuple[str, Moment]], end: Moment) -> Phases:
    """Wall and CPU seconds by name, from each moment to the next one."""
    found: Phases = {}
    for (name, since), (_, until) in pairwise([*sorted(moments, key=lambda moment: moment[1]), ("", end)]):
        wall, processor = found.get(name, (0.0, 0.0))
        found[name] = (wall + until[0] - since[0], processor + until[1] - since[1])
    return found


def rows_of_phases(cold: Sequence[Phases], warm: Sequence[Phases]) -> list[Row]:
    """A row for each phase, and one for the total: medians of the runs, and the share of the CPU time in warm runs."""

    def row(phase: str, chosen: Sequence[str]) -> Row:
        walls = [statistics.median(sum(run[name][0] for name in chosen) for run in runs) for runs in (cold, warm)]
        processor = statistics.median(sum(run[name][1] for name in chosen) for run in warm)
        return {"phase": phase, "cold, s": round(walls[0], 2), "warm, s": round(walls[1], 2),
                "warm, CPU s": round(processor, 2)}  # fmt: skip

    rows = [*(row(name, [name]) for name in warm[0]), row("all", list(warm[0]))]
    whole = rows[-1]["warm, CPU s"]
    return [{**row, "share": f"{row['warm, CPU s'] / whole:.0%}"} for row in rows]


def rows_of_pairs(pairs: Sequence[Mapping[str, Phases]]) -> list[Row]:
    """A row for each contender, and one with the ratio of the second to the first: medians of runs, and of the pairs'
    ratios."""
    figures = [{name: _figures(parts) for name, parts in pair.items()} for pair in pairs]
    rows = [
        {"training": name, **{key: round(statistics.median(pair[name][key] for pair in figures), 2) for key in keys}}
        for name, keys in figures[0].items()
    ]
    ratios = {
        key: round(statistics.median(pair[OURS][key] / pair[THEIRS][key] for pair in figures), 2)
        for key in figures[0][OURS]
    }
    return [*rows, {"training": f"{OURS}, by {THEIRS}", **ratios}]


def _figures(parts: Phases) -> dict[str, float]:
    whole = tuple(map(sum, zip(*parts.values(), strict=True)))
    named = [("whole job", whole), *parts.items()]
    return {f"{name}, {unit}": value for name, both in named for unit, value in zip(("s", "CPU s"), both, strict=True)}


if __name__ == "__main__":
    main()
