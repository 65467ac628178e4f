"""Time of a training step by operator, from torch's profiler: own times, on CPU or GPU.

python -m benchmarks.speed.profile_step [--base mini-sdxl] [--resolution 64] [--batch 8] [--rank 8] [--compile always]
    [--steps 10] [--rows 15] [--trace FILE] [--name profile_step]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import markdown, write_record
from benchmarks.speed.train_step import WARM_UP, Bench, Case
from settings.command_line.parser import CommandParser
from trainer.training import Training


def main() -> None:
    """Profile, print the table, write benchmarks/results/profile_step.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="profiled steps")
    parser.add_argument("--base", default="mini-sdxl")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--compile", default="never", choices=("never", "always"))
    parser.add_argument("--rows", type=int, default=15, help="number of operators in the table")
    parser.add_argument("--name", default="profile_step", help="name of the result")
    parser.add_argument("--trace", type=Path, help="also write a trace for chrome://tracing or Perfetto")
    arguments = parser.parse_args()
    case = Case(arguments.resolution, arguments.batch, arguments.rank, compile=arguments.compile)
    with TemporaryDirectory() as scratch:
        training = Bench(arguments.base, Path(scratch)).begin(case, WARM_UP + arguments.steps)
        rows = profiled(training, arguments.steps, arguments.rows, arguments.trace)
    print(markdown(rows))
    print(write_record(arguments.name, rows, vars(case)))


def profiled(training: Training, steps: int, rows: int, trace: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for each of the most expensive operators, one for the others, and one for the total."""
    running = training.trainer.steps()
    for _ in range(WARM_UP):
        next(running)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            next(running)
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    return table(profiler.key_averages(), steps, rows)


def table(averages: Sequence[FunctionEventAvg], steps: int, rows: int) -> list[dict[str, Any]]:
    """Own time of each operator in ms per step, the largest first."""
    spent = sorted(((_own_time(average), average) for average in averages), key=lambda pair: -pair[0])
    total = sum(microseconds for microseconds, _ in spent)
    largest = [
        _row(str(average.key), microseconds, average.count, total, steps) for microseconds, average in spent[:rows]
    ]
    others = sum(microseconds for microseconds, _ in spent[rows:])
    calls = sum(average.count for _, average in spent[rows:])
    return [
        *largest,
        _row("others", others, calls, total, steps),
        _row("all", total, sum(average.count for _, average in spent), total, steps),
    ]


def _own_time(average: FunctionEventAvg) -> float:
    """Microseconds on the device if there is one, otherwise on the CPU."""
    return float(average.self_device_time_total if torch.cuda.is_available() else average.self_cpu_time_total)


def _row(name: str, microseconds: float, calls: int, total: float, steps: int) -> dict[str, Any]:
    return {
        "operator": name,
        "calls a step": round(calls / steps),
        "ms a step": round(microseconds / steps / 1000, 2),
        "share": f"{microseconds / max(total, 1e-9):.1%}",
    }


if __name__ == "__main__":
    main()
