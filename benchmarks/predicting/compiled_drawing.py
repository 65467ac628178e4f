"""Cost and benefit of compilation in the predictor: seconds of the first requests, and images per second afterwards.

python -m benchmarks.predicting.compiled_drawing [--base_model mini-sdxl] [--outputs 4] [--steps 12] [--repetitions 5]

Three servers, one after the other, each a separate process: uncompiled; compiled with an empty cache on disk; compiled
with the cache of the previous one. Each gets the same requests: with a LoRA of rank 16, of rank 4, without a LoRA, and
again with the first one. On a CPU, times are CPU times, including those of the C++ compiler.
"""

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from artifact.artifact import Artifact
from artifact.placement.compilation import Compilation
from benchmarks.predicting.clock import timed
from benchmarks.predicting.lora_swap import write_lora
from benchmarks.predicting.messages import discard
from benchmarks.record import Row, markdown, write_record
from sampler.generation import Generation
from sampler.sampler import Sampler, SampleRequest
from settings.command_line.parser import CommandParser

RANKS = {"one.safetensors": 16, "two.safetensors": 4}
FIRST, OTHER, WITHOUT, AGAIN = "first request, s", "another LoRA, s", "no LoRA, s", "first LoRA again, s"


@dataclass(frozen=True)
class Case:
    """The requests: of `outputs` images in `steps`. `repetitions`: of the timed requests after compilation."""

    base_model: str
    outputs: int
    steps: int
    repetitions: int


def main() -> None:
    """Measure, print the table, write benchmarks/results/compiled_drawing.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="mini-sdxl", help="a folder, or mini-sdxl")
    parser.add_argument("--outputs", type=int, default=4, help="images per request")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--repetitions", type=int, default=5, help="images/s is the median over this number of requests"
    )
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = measure(Case(**vars(given)), Path(folder))
    print(markdown(rows))
    print(write_record("compiled_drawing", rows, vars(given)))


def measure(case: Case, folder: Path, backend: str = "inductor") -> list[Row]:
    """Return a row for each server. The last column is the difference of its images from the uncompiled ones."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # otherwise other processes compile, whose time is not counted
    write_loras(case.base_model, folder)
    compilation = Compilation(folder / "cache", max(RANKS.values()), backend)
    servers = {"uncompiled": None, "compiled, cache empty": compilation, "compiled, cache filled": compilation}
    answers = {name: _in_a_process(partial(serve, case, folder, chosen)) for name, chosen in servers.items()}
    plain = answers["uncompiled"][1]
    return [
        {"server": name, **seconds, "largest difference, of 255": max(map(_difference, pictures, plain))}
        for name, (seconds, pictures) in answers.items()
    ]


def write_loras(base_model: str, folder: Path) -> None:
    """Write the LoRAs that `serve` reads."""
    family = Generation(discard).prepare(None, base_model).family
    for name, rank in RANKS.items():
        write_lora(family, folder / name, rank)


def serve(case: Case, folder: Path, compilation: Compilation | None) -> tuple[dict[str, float], list[np.ndarray]]:
    """Process the requests; return the seconds of each, images per second when warm, and the images."""
    sampler = Generation(discard, compilation=compilation).prepare(None, case.base_model)
    one, two = (Artifact.read(folder / name) for name in RANKS)
    seconds, pictures = dict[str, float](), list[np.ndarray]()
    for name, lora in ((FIRST, one), (OTHER, two), (WITHOUT, None), (AGAIN, one)):
        drawn, spent = timed(partial(draw, sampler, lora, case))
        seconds[name] = round(spent, 2)
        pictures.append(drawn)
    warm = [timed(partial(draw, sampler, one, case))[1] for _ in range(case.repetitions)]
    return {**seconds, "images/s": round(case.outputs / statistics.median(warm), 2)}, pictures


def draw(sampler: Sampler, lora: Artifact | None, case: Case) -> np.ndarray:
    """The images of one request: (N, height, width, 3)."""
    words = "a photo of a dog" if lora is None else "a photo of TOK"
    request = SampleRequest(words, num_outputs=case.outputs, num_inference_steps=case.steps, seed=7)
    sampler.load_several([] if lora is None else [(lora, 1.0)])
    try:
        return np.stack([np.asarray(image, dtype=np.int16) for image in sampler.generate(request)])
    finally:
        sampler.unload()


def _difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours - theirs).max())


def _in_a_process(action: Callable[[], Any]) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action).result()


if __name__ == "__main__":
    main()
