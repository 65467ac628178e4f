"""Speed of a training step on the embedded base: steps and images a second, floating-point operations, memory.

python -m benchmarks.train_step [--steps 20] [--batches 1 4 8] [--ranks 8 32]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import markdown, write_record
from families.registry import load_base_model
from preprocess.prepare import prepare
from trainer.cache import cache_examples
from trainer.config import TrainingConfig, build_config
from trainer.memory import resident_peak
from trainer.resolution import base_requirements, resolve
from trainer.training import Training, build_training

EXAMPLE = Path(__file__).resolve().parents[1] / "assets" / "examples" / "robot.zip"
WARM_UP = 3
"""Steps that are not timed."""


def main() -> None:
    """Measure every combination, print the table, write benchmarks/results/train_step.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each combination")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32])
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        rows = list(measure(Path(scratch), arguments.steps, arguments.batches, arguments.ranks))
    print(markdown(rows))
    print(write_record("train_step", rows, {"steps": arguments.steps, "base_model": "mini-sdxl"}))


def measure(scratch: Path, steps: int, batches: Sequence[int], ranks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each batch size and rank, attention LoRA."""
    for number, (batch, rank) in enumerate(itertools.product(batches, ranks)):
        config = build_config({
            "base_model": "mini-sdxl",
            "class_word": "figure",
            "train_batch_size": batch,
            "rank": rank,
            "max_train_steps": steps + WARM_UP + 1,
        })  # fmt: skip
        yield {"batch": batch, "rank": rank, **time_steps(start_training(config, scratch / str(number)), steps, batch)}


def start_training(config: TrainingConfig, folder: Path) -> Training:
    """Everything up to the first step."""
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    family = load_base_model(config.base_model, dtype)
    config = resolve(config, family)
    dataset = prepare([EXAMPLE], config, folder, base_requirements(family, config))
    family.to(accelerator.device)
    return build_training(config, family, dataset, list(cache_examples(dataset, family)), accelerator)


def time_steps(training: Training, steps: int, batch: int) -> dict[str, Any]:
    """Medians over `steps` steps after a few that warm up; operations by torch's counter over one more."""
    running = training.trainer.steps()
    for _ in range(WARM_UP):
        next(running)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        next(running)
        seconds.append(time.perf_counter() - started)
    with FlopCounterMode(display=False) as counter:
        next(running)
    step = statistics.median(seconds)
    operations = counter.get_total_flops()
    return {
        "step, ms": round(1000 * step, 1),
        "images/s": round(batch / step, 1),
        "GFLOP a step": round(operations / 1e9, 1),
        "GFLOP/s": round(operations / step / 1e9, 1),
        "peak memory, MB": round(_peak_megabytes()),
    }


def _peak_megabytes() -> float:
    """Of the device; on a CPU of this process, which only ever grows."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_peak() / 2**20


if __name__ == "__main__":
    main()
