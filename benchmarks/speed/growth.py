"""Measures whether steps become slower with more images, or later in a run.

python -m benchmarks.speed.growth [--photographs 8 800] [--after 10 400] [--steps 40]
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import markdown, write_record
from benchmarks.speed.train_step import Bench, Case
from settings.command_line.parser import CommandParser
from trainer.execution.memory import resident_peak

CASE = Case(resolution=64, batch=4, rank=8)


def main() -> None:
    """Measure, print the table, write benchmarks/results/growth.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, nargs="+", default=[8, 800])
    parser.add_argument("--after", type=int, nargs="+", default=[10, 400], help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=40, help="timed steps")
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        rows = [
            row
            for photographs in arguments.photographs
            for row in measure(photographs, arguments.after, arguments.steps, Path(scratch) / str(photographs))
        ]
    print(markdown(rows))
    print(write_record("growth", rows, {"steps": arguments.steps, **vars(CASE)}))


def measure(photographs: int, after: Sequence[int], steps: int, scratch: Path) -> Iterator[dict[str, Any]]:
    """A row for each position in one run with this number of images. `after`: ascending, with distances larger than
    `steps`."""
    training = Bench("mini-sdxl", scratch, photographs).begin(CASE, after[-1] + steps)
    running = training.trainer.steps()
    for place in after:
        for _ in islice(running, place - training.trainer.step):
            pass
        seconds = []
        for _ in range(steps):
            started = time.perf_counter()
            next(running)
            seconds.append(time.perf_counter() - started)
        yield {
            "images": photographs,
            "after step": place,
            "step, ms": round(1000 * statistics.median(seconds), 1),
            "peak memory, MB": round(resident_peak() / 2**20),
        }
    training.remove()


if __name__ == "__main__":
    main()
