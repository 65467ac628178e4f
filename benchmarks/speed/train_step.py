"""Speed of a training step: steps and images per second, floating-point operations, utilisation of the GPU, memory.

python -m benchmarks.speed.train_step [--base mini-sdxl] [--resolutions 1024] [--batches 1 4 8] [--ranks 8 32]
    [--cuda_graphs never auto] [--compile never always] [--gradient_checkpointing never always] [--steps 20]
    [--attention auto flash] [--base_precision bf16] [--name train_step]

A base of full size with random weights: python -m benchmarks.speed.full_size sdxl FOLDER, then --base FOLDER.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from accelerate import Accelerator

from benchmarks.preparation.photographs import scaled_sizes, write_photographs
from benchmarks.record import markdown, write_record
from families.family import ModelFamily
from families.precision.formats import PrecisionOfBase
from families.precision.stored_blocks import Storage, place
from preprocess.dataset import PreparedDataset
from preprocess.prepare import prepare
from settings.command_line.parser import CommandParser
from settings.preparation import DataConfig
from settings.sections.speed import AttentionName
from settings.training import build_config
from trainer.base_model import autocast_precision, load_base, precision
from trainer.building import build_training
from trainer.data.latent_cache import CachedExample, cache_examples
from trainer.distributed.processes import start
from trainer.execution.attention import require_attention
from trainer.execution.memory import peak_memory_gib
from trainer.execution.operations import OperationCount
from trainer.execution.throughput import PEAK_OPERATIONS, known_card
from trainer.resolution import base_requirements, resolve
from trainer.training import Training

WARM_UP = 3
"""Number of steps that are not timed."""
PHOTOGRAPHS = 8


@dataclass(frozen=True)
class Case:
    """One row."""

    resolution: int
    batch: int
    rank: int
    cuda_graphs: str = "auto"
    compile: str = "never"
    gradient_checkpointing: str = "never"
    attention: str = "auto"


def main() -> None:
    """Measure every combination, print the table, write benchmarks/results/NAME.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="mini-sdxl")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--cuda_graphs", nargs="+", default=["auto"], choices=("never", "auto"))
    parser.add_argument("--compile", nargs="+", default=["never"], choices=("never", "always"))
    parser.add_argument("--gradient_checkpointing", nargs="+", default=["never"], choices=("never", "always"))
    parser.add_argument("--attention", nargs="+", default=["auto"], choices=get_args(AttentionName))
    parser.add_argument("--base_precision", default="bf16", choices=get_args(PrecisionOfBase))
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each combination")
    parser.add_argument("--name", default="train_step", help="name of the result")
    arguments = parser.parse_args()
    cases = [
        Case(*combination)
        for combination in itertools.product(
            arguments.resolutions,
            arguments.batches,
            arguments.ranks,
            arguments.cuda_graphs,
            arguments.compile,
            arguments.gradient_checkpointing,
            arguments.attention,
        )
    ]
    with TemporaryDirectory() as scratch:
        rows = list(measure(arguments.base, cases, arguments.steps, Path(scratch), arguments.base_precision))
    print(markdown(rows))
    settings = {name: getattr(arguments, name) for name in ("steps", "base_precision")}
    print(write_record(arguments.name, rows, {**settings, "base_model": arguments.base}))


def measure(
    base: str, cases: Iterable[Case], steps: int, scratch: Path, stored: PrecisionOfBase = "bf16"
) -> Iterator[dict[str, Any]]:
    """A row for each case: attention LoRA; two tokens trained in every text encoder that can be trained. `stored`: the
    `base_precision`."""
    bench = Bench(base, scratch, stored=stored)
    for case in cases:
        training = bench.begin(case, WARM_UP + steps + 1)
        yield {**vars(case), **time_steps(training, steps, case.batch)}
        training.remove()


class Bench:
    """A base for consecutive trainings, and photographs of every size that they need."""

    def __init__(
        self, base: str, scratch: Path, photographs: int = PHOTOGRAPHS, stored: PrecisionOfBase = "bf16"
    ) -> None:
        self._base, self._scratch, self._photographs = base, scratch, photographs
        config = build_config({"base_model": base})
        self._accelerator: Accelerator = start(autocast_precision(config.adapter, config.mixed_precision))
        self._dtype = precision(config.adapter, config.mixed_precision)
        self._family: ModelFamily = load_base(config.base, self._dtype, self._accelerator, config.zero_terminal_snr)
        place(self._family, Storage(stored), self._accelerator.device)
        self._data: dict[int, tuple[PreparedDataset, list[CachedExample]]] = {}

    def begin(self, case: Case, steps: int) -> Training:
        """Prepare everything before the first step."""
        config = build_config({
            "base_model": self._base,
            "class_word": "figure",
            "resolution": case.resolution,
            "captioner": "none",
            "aspect_ratio_bucketing": False,
            "train_batch_size": case.batch,
            "rank": case.rank,
            "cuda_graphs": case.cuda_graphs,
            "compile": case.compile,
            "gradient_checkpointing": case.gradient_checkpointing,
            "attention": case.attention,
            "prior_matching_weight": 0,  # other trainers only compute the denoising loss in a step
            "max_train_steps": steps,
        })  # fmt: skip
        config = resolve(config, self._family)
        require_attention(config.attention, self._accelerator.device, self._dtype, self._family.denoiser)
        dataset, examples = self._examples(config.preparation, config.num_tokens, case.resolution)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return build_training(config, self._family, dataset, examples, self._accelerator)

    def _examples(
        self, preparation: DataConfig, num_tokens: int, resolution: int
    ) -> tuple[PreparedDataset, list[CachedExample]]:
        if resolution not in self._data:
            photos = self._scratch / f"photographs of {resolution}"
            photos.mkdir(parents=True)
            write_photographs(photos, scaled_sizes(self._photographs, resolution))
            folder = self._scratch / f"dataset of {resolution}"
            dataset = prepare([photos], preparation, folder, base_requirements(self._family, preparation, num_tokens))
            self._data[resolution] = dataset, list(cache_examples(dataset, self._family))
        return self._data[resolution]


def time_steps(training: Training, steps: int, batch: int) -> dict[str, Any]:
    """Medians over `steps` steps after a few for warming up; operations by torch's counter in another one. A step ends
    when its losses are read, so its time includes the device's.
    """
    running = training.trainer.steps()
    started = time.perf_counter()
    for _ in range(WARM_UP):
        next(running)
    warm_up = time.perf_counter() - started
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        next(running)
        seconds.append(time.perf_counter() - started)
    memory = 1024 * peak_memory_gib()
    step, operations = statistics.median(seconds), _operations(training)
    peak = _peak_operations()
    return {
        "first steps, s": round(warm_up, 2),
        "step, ms": round(1000 * step, 1),
        "images/s": round(batch / step, 1),
        "GFLOP a step": round(operations / 1e9, 1),
        "GFLOP/s": round(operations / step / 1e9, 1),
        "of peak": "" if peak is None else f"{operations / step / peak:.1%}",
        "peak memory, MB": round(memory),
    }


def _operations(training: Training) -> int:
    """Return the operations of one step without compilation, which the counter does not support. Recomputed activations
    are included."""
    trainer = training.trainer
    batch = next(trainer.batches)
    with OperationCount() as counter:
        trainer.backward(batch, 1.0)
    for trainable in trainer.trainables:
        trainable.optimizer.zero_grad(set_to_none=True)
    return counter.total


def _peak_operations() -> float | None:
    """Return the GPU's peak rate; None if it is unknown."""
    if not torch.cuda.is_available():
        return None
    card = known_card(torch.cuda.get_device_name())
    return None if card is None else PEAK_OPERATIONS[card]


if __name__ == "__main__":
    main()
