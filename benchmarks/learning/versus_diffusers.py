"""The same training through diffusers' advanced SDXL script and through ours: speed, memory and what was learned.

python -m benchmarks.learning.versus_diffusers train_dreambooth_lora_sdxl_advanced.py [--launcher FILE] [--runs N]

The script is diffusers' examples/advanced_diffusion_training/train_dreambooth_lora_sdxl_advanced.py, fetched by hand;
it needs the package `datasets`. A launcher is a Python file that is run with the script as its first argument. Finished
runs are kept: the command goes on where it was stopped, or had made its N.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.contenders import (
    BATCH,
    CLASS_WORD,
    DEMO,
    DOCUMENTED,
    FASTEST,
    RANK,
    RATE,
    SIDE,
    TOKEN_RATE,
    Contender,
    Usage,
    demo_job,
    our_training,
    same_job,
    their_training,
    unpack_example,
)
from benchmarks.learning.diffusers_results import TRIGGER, draw_of, judge_of
from benchmarks.learning.measures import Protocol
from benchmarks.learning.versus_page import write_page
from benchmarks.record import Row, markdown, write_record
from settings.command_line.parser import CommandParser
from settings.record import read_settings_file

PAGE = Path(__file__).resolve().parents[2] / "docs" / "versus-diffusers.md"
SHORT, LONG = 10, 50
"""Numbers of steps of two runs. Their difference gives the time of a step, without start and end."""
LEARNING_STEPS = 120
PROTOCOL = Protocol(samples_of_a_background=1, inference_steps=15)
THEIRS, OURS, OURS_DEMO = "diffusers' script", "ours, the same job", "ours, configs/demo.yaml"
THEIRS_DOCUMENTED = "diffusers' script, its README's options"


def main() -> None:
    """Measure, print the tables, write benchmarks/results/versus_diffusers.json and docs/versus-diffusers.md."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path, help="diffusers' training script")
    parser.add_argument("--launcher", type=Path, help="runs the script where torchvision is missing")
    parser.add_argument("--part", choices=("speed", "learning"), help="measure this alone, and write nothing")
    parser.add_argument("--pairs", type=int, default=5, help="paired runs for speed and memory")
    parser.add_argument("--seeds", type=int, default=3, help="trainings for what is learned")
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    arguments = parser.parse_args()
    finished = FinishedRuns(FINISHED / "versus_diffusers", arguments.runs)
    launcher = [arguments.launcher.resolve()] if arguments.launcher else []
    try:
        parts = _measure(arguments, finished, [*launcher, arguments.script.resolve()])
    except Unfinished as missing:
        sys.exit(str(missing))
    for rows in parts.values():
        print(markdown(rows), end="\n\n")
    if arguments.part is None:
        settings = {"pairs": arguments.pairs, "seeds": arguments.seeds, "batch": BATCH, "rank": RANK,
                    "learning_rate": RATE, "token_learning_rate": TOKEN_RATE, "steps": [SHORT, LONG],
                    "learning_steps": LEARNING_STEPS, "resolution": SIDE,
                    "measured_at": sorted(finished.commits)}  # fmt: skip
        write_page(PAGE, parts, settings)
        print(write_record("versus_diffusers", [row for rows in parts.values() for row in rows], settings))


def _measure(
    arguments: argparse.Namespace, finished: FinishedRuns, command: Sequence[Path]
) -> Mapping[str, Sequence[Row]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = unpack_example(folder / "photos")
        theirs = Contender(THEIRS, their_training(command, photos, FASTEST))
        documented = Contender(THEIRS_DOCUMENTED, their_training(command, photos, DOCUMENTED))
        ours = Contender(OURS, our_training(same_job()))
        demo = Contender(OURS_DEMO, our_training(demo_job()), read_settings_file(DEMO))
        parts: dict[str, Callable[[], list[Row]]] = {
            "learning": lambda: measure_learning(
                (documented, theirs, ours, demo), folder, photos, arguments.seeds, finished
            ),
            "speed": lambda: measure_speed((documented, theirs, ours), folder, arguments.pairs, finished),
        }
        return {name: part() for name, part in parts.items() if arguments.part in (None, name)}


def measure_speed(contenders: Sequence[Contender], folder: Path, pairs: int, finished: FinishedRuns) -> list[Row]:
    """Medians over runs of SHORT and of LONG steps, in which the contenders take turns; then the last by each other."""
    runs: dict[str, list[tuple[Usage, Usage]]] = {contender.name: [] for contender in contenders}
    for pair in range(pairs):
        for contender in contenders:
            short, long = (_timed(contender, steps, pair, folder, finished) for steps in (SHORT, LONG))
            runs[contender.name].append((short, long))
    rows = [_speed_row(name, usages) for name, usages in runs.items()]
    *others, last = rows
    return [*rows, *(_ratios(last, other) for other in others)]


def _ratios(one: Row, other: Row) -> Row:
    ratios = {name: one[name] / value for name, value in other.items() if name != "speed"}
    return {"speed": f"{one['speed']}, by {other['speed']}", **ratios}


def _timed(contender: Contender, steps: int, pair: int, folder: Path, finished: FinishedRuns) -> Usage:
    name = f"speed {contender.name} {steps} steps, pair {pair}"
    return Usage(**finished.get(name, contender.settings, lambda: asdict(contender.train(_new(folder), steps, pair))))


def _speed_row(name: str, usages: Sequence[tuple[Usage, Usage]]) -> dict[str, Any]:
    steps = [(long.seconds - short.seconds) / (LONG - SHORT) for short, long in usages]
    edges = [short.seconds - step * SHORT for (short, _), step in zip(usages, steps, strict=True)]
    return {
        "speed": name,
        f"wall time of {LONG} steps, s": statistics.median(long.seconds for _, long in usages),
        "step, ms": 1000 * statistics.median(steps),
        "start and end, s": statistics.median(edges),
        "peak memory, MB": statistics.median(long.megabytes for _, long in usages),
    }


def measure_learning(
    contenders: Sequence[Contender], folder: Path, photos: Path, seeds: int, finished: FinishedRuns
) -> list[Row]:
    """A row a contender and seed, and two with each contender's means and standard deviations."""
    judge = cache(lambda: judge_of(photos, PROTOCOL))

    def train(contender: Contender, seed: int) -> Row:
        output = _new(folder)
        usage = contender.train(output, LEARNING_STEPS, seed)
        scores = judge().score(draw_of(output, PROTOCOL), TRIGGER, CLASS_WORD)
        return {**scores.row(), "processor s": round(usage.processor_seconds, 1)}

    rows: list[Row] = []
    for contender in contenders:
        settings = {"steps": LEARNING_STEPS, **contender.settings}
        own = [
            finished.get(f"learning {contender.name}, seed {seed}", settings, partial(train, contender, seed))
            for seed in range(seeds)
        ]
        means = {name: statistics.mean(row[name] for row in own) for name in own[0]}
        rows += [{"learning": contender.name, "seed": seed, **row} for seed, row in enumerate(own)]
        rows.append({"learning": contender.name, "seed": "mean", **means})
        spread = {name: statistics.stdev(row[name] for row in own) if seeds > 1 else 0.0 for name in own[0]}
        rows.append({"learning": contender.name, "seed": "spread", **spread})
    return rows


def _new(folder: Path) -> Path:
    """Return a path that does not exist yet."""
    return Path(tempfile.mkdtemp(dir=folder)) / "run"


if __name__ == "__main__":
    main()
