"""Time and memory of the same training with diffusers' advanced SDXL script and with this trainer.

python -m benchmarks.speed.versus_diffusers train_dreambooth_lora_sdxl_advanced.py [--launcher FILE] [--runs N]

The script is diffusers' examples/advanced_diffusion_training/train_dreambooth_lora_sdxl_advanced.py, fetched by hand;
it needs the package `datasets`. A launcher is a Python file that is run with the script as its first argument. Finished
runs are kept, so that the command can be continued, also after N new ones. The quality of both is compared by
benchmarks/concepts/report.py.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.finished_runs import FINISHED, FinishedRuns, Unfinished
from benchmarks.learning.contenders import (
    BATCH,
    DOCUMENTED,
    FASTEST,
    RANK,
    SIDE,
    Contender,
    Usage,
    our_training,
    same_job,
    their_training,
    unpack_example,
)
from benchmarks.record import Row, machine, markdown, write_record
from settings.command_line.parser import CommandParser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "versus-diffusers.md"
SHORT, LONG = 10, 50
"""Numbers of steps of two runs. The difference of their times gives the time of a step, without start and end."""
THEIRS, OURS = "diffusers' script", "ours, the same job"
THEIRS_DOCUMENTED = "diffusers' script, its README's options"
TEXT = """# Time and memory compared with diffusers' training script

Written by `python -m benchmarks.speed.versus_diffusers`: training on the example robot and the embedded base
model with diffusers' `train_dreambooth_lora_sdxl_advanced.py` (pivotal tuning) and with this trainer.
[learning.md](learning.md) compares the quality on other concepts, [time-to-quality.md](time-to-quality.md) the time to
reach it. Machine: {machine}.

Both use the same base model, images, captions, {resolution} pixels, fp32, batch {batch}, rank {rank}, LoRA on the
attention layers, two new tokens in each text encoder trained to the end, min-SNR weighting, a constant rate, and no
prior preservation.

- **diffusers' script**: `--cache_latents`, which makes it faster, but pairs images with captions of other images,
  because latents are cached in one shuffled order and read in another.
- **diffusers' script, its README's options**: without `--cache_latents` and with `--gradient_checkpointing`, as in the
  command of its README; otherwise the same.

The table has medians of {pairs} paired runs of {short} and {long} steps, in alternation; the time of a step is computed
from their difference. The whole process is measured, from the start of Python to its end; ours also verifies its file
and writes a report. CPU seconds are user and system time of the process: they vary less than wall time if other
processes are running.

{speed}
"""


def main() -> None:
    """Measure, print the table, write benchmarks/results/versus_diffusers.json and docs/versus-diffusers.md."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path, help="diffusers' training script")
    parser.add_argument("--launcher", type=Path, help="runs the script if torchvision is not installed")
    parser.add_argument("--pairs", type=int, default=5, help="paired runs")
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    arguments = parser.parse_args()
    finished = FinishedRuns(FINISHED / "versus_diffusers", arguments.runs)
    launcher = [arguments.launcher.resolve()] if arguments.launcher else []
    try:
        rows = _measure([*launcher, arguments.script.resolve()], arguments.pairs, finished)
    except Unfinished as missing:
        sys.exit(str(missing))
    print(markdown(rows), end="\n\n")
    settings = {"pairs": arguments.pairs, "batch": BATCH, "rank": RANK, "resolution": SIDE, "steps": [SHORT, LONG],
                "measured_at": sorted(finished.commits)}  # fmt: skip
    write_page(PAGE, rows, settings)
    print(write_record("versus_diffusers", rows, settings))


def _measure(command: Sequence[Path], pairs: int, finished: FinishedRuns) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = unpack_example(folder / "photos")
        contenders = (
            Contender(THEIRS_DOCUMENTED, their_training(command, photos, DOCUMENTED)),
            Contender(THEIRS, their_training(command, photos, FASTEST)),
            Contender(OURS, our_training(same_job())),
        )
        return measure_speed(contenders, folder, pairs, finished)


def measure_speed(contenders: Sequence[Contender], folder: Path, pairs: int, finished: FinishedRuns) -> list[Row]:
    """Medians over runs of SHORT and of LONG steps, in which the contenders alternate; then the ratios of the last to
    each of the others."""
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
    of_processor = [(long.processor_seconds - short.processor_seconds) / (LONG - SHORT) for short, long in usages]
    return {
        "speed": name,
        f"wall time of {LONG} steps, s": statistics.median(long.seconds for _, long in usages),
        f"CPU time of {LONG} steps, s": statistics.median(long.processor_seconds for _, long in usages),
        "step, ms": 1000 * statistics.median(steps),
        "step, CPU ms": 1000 * statistics.median(of_processor),
        "start and end, s": statistics.median(edges),
        "peak memory, MB": statistics.median(long.megabytes for _, long in usages),
    }


def write_page(path: Path, rows: Sequence[Row], settings: Mapping[str, Any]) -> None:
    """`settings`: pairs, batch, rank, resolution and steps."""
    here = machine()
    text = TEXT.format(
        **{name: settings[name] for name in ("pairs", "batch", "rank", "resolution")},
        short=settings["steps"][0],
        long=settings["steps"][1],
        machine=f"{here['processor']}, {here['threads']} of {here['cores']} cores for each",
        speed=markdown(rows),
    )
    path.write_text(text, encoding="utf-8")


def _new(folder: Path) -> Path:
    """Return a path that does not exist."""
    return Path(tempfile.mkdtemp(dir=folder)) / "run"


if __name__ == "__main__":
    main()
