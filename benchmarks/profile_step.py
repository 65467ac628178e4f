"""Where the time of a training step goes, by torch's profiler: operators by their own time, on CPU or GPU.

python -m benchmarks.profile_step [--steps 10] [--batch 8] [--rank 8] [--rows 15] [--trace FILE]
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
from benchmarks.train_step import WARM_UP, start_training
from trainer.config import build_config
from trainer.training import Training


def main() -> None:
    """Profile, print the table, write benchmarks/results/profile_step.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="profiled steps")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rows", type=int, default=15, help="operators in the table")
    parser.add_argument("--trace", type=Path, help="also write a trace for chrome://tracing or Perfetto")
    arguments = parser.parse_args()
    config = build_config({
        "base_model": "mini-sdxl",
        "class_word": "figure",
        "train_batch_size": arguments.batch,
        "rank": arguments.rank,
        "max_train_steps": WARM_UP + arguments.steps,
    })  # fmt: skip
    with TemporaryDirectory() as scratch:
        training = start_training(config, Path(scratch) / "dataset")
        rows = profiled(training, arguments.steps, arguments.rows, arguments.trace)
    print(markdown(rows))
    print(write_record("profile_step", rows, {"batch": arguments.batch, "rank": arguments.rank}))


def profiled(training: Training, steps: int, rows: int, trace: Path | None = None) -> list[dict[str, Any]]:
    """A row for each of the most expensive operators, one for the others, and one for all."""
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
    """Own time of each operator in ms a step, the largest first."""
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
    """Microseconds on the device where there is one, else on the CPU."""
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
