"""Time of a request to the predictor, compared with plain diffusers: sampling only, and the whole request.

python -m benchmarks.predicting.overhead [--pairs 12] [--steps 30] [--outputs 1 4 8] [--base_model BASE --weights FILE]

All measurements are warm. The images of a request are generated as one batch, so the first one is finished when all
are. On a CPU, times are CPU times of the process, which depend little on other processes.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from artifact.artifact import Artifact
from benchmarks.predicting.clock import seconds
from benchmarks.predicting.messages import discard
from benchmarks.record import Row, markdown, write_record
from benchmarks.speed.train_step import Bench
from benchmarks.speed.train_step import Case as TrainingCase
from families.loading.sources import find_base_model
from families.parts.placeholder_tokens import expand_triggers
from sampler.generation import Generation
from sampler.sampler import SampleRequest
from service.prediction_inputs import PredictionInputs, predict
from settings.command_line.parser import CommandParser

SEED = 7
TRIGGER = "TOK"
TOLERANCE = 1
"""Largest difference in levels of 255, in fp32: times are only comparable if both sides generate equal images."""


@dataclass(frozen=True)
class Case:
    """The samples to generate, and the number of repetitions. `weights`: an artifact for an SDXL base. `outputs`: the
    measured numbers of images per request."""

    base_model: str
    weights: Path
    pairs: int = 12
    steps: int = 30
    outputs: tuple[int, ...] = (1,)

    def request(self, outputs: int) -> SampleRequest:
        return SampleRequest(
            f"a photo of {TRIGGER} on a blue background", num_outputs=outputs, num_inference_steps=self.steps,
            seed=SEED,
        )  # fmt: skip


def main() -> None:
    """Measure, print the table, write benchmarks/results/predict.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, default=12, help="number of alternating pairs, of which the tables have medians"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--outputs", type=int, nargs="+", default=[1, 4, 8], help="images per request")
    parser.add_argument("--base_model", default="mini-sdxl", help="in SDXL's layout: a folder, or mini-sdxl")
    parser.add_argument("--weights", type=Path, help="default: a LoRA of rank 16 that is trained first for a few steps")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        weights = given.weights or make_weights(Path(scratch))
        case = Case(given.base_model, weights, given.pairs, given.steps, tuple(given.outputs))
        rows = measure(case, Path(scratch))
    print(markdown(rows))
    print(write_record("predict", rows, vars(given)))


def make_weights(folder: Path) -> Path:
    """A LoRA on all attention layers of the embedded base, trained for two steps so that no layer is zero."""
    training = Bench("mini-sdxl", folder).begin(TrainingCase(resolution=64, batch=4, rank=16), steps=2)
    list(training.trainer.steps())
    training.write(folder / "weights.safetensors")
    training.remove()
    return folder / "weights.safetensors"


def measure(case: Case, folder: Path) -> list[Row]:
    """Return a row for each number of images. Raises AssertionError if the images differ from those of diffusers."""
    generation = Generation(discard)
    generation.prepare(None, case.base_model)
    pipeline, prompt = plain_diffusers(case)
    return [_drawing_row(case, outputs, generation, pipeline, prompt, folder) for outputs in case.outputs]


def _drawing_row(
    case: Case, outputs: int, generation: Generation, pipeline: Any, prompt: str, folder: Path
) -> dict[str, Any]:
    """A row for requests with `outputs` images: plain diffusers with the LoRA loaded; only the sampler, alternating
    with it; and the whole request, which also reads the LoRA, applies it to the base, removes it and writes files."""
    sampler, request = generation.prepare(None, case.base_model), case.request(outputs)

    def by_diffusers() -> list[Image.Image]:
        return draw_plainly(pipeline, prompt, case, outputs)

    def by_request() -> list[Path]:
        inputs = PredictionInputs(
            request.prompt, lora=str(case.weights), lora_scale="1", base_model=case.base_model,
            num_outputs=outputs, num_inference_steps=case.steps, seed=SEED,
        )  # fmt: skip
        return predict(
            inputs, generation, folder / "images", local_files=True, say=discard, metric=lambda name, value: None
        ).paths

    sampler.load(Artifact.read(case.weights))
    require_same_images(by_diffusers(), sampler.generate(request))
    plain, ours, over = by_turns(case.pairs, by_diffusers, lambda: sampler.generate(request))
    sampler.unload()
    written, whole, over_written = by_turns(case.pairs, lambda: _save(by_diffusers(), folder), by_request)
    return {
        "outputs": outputs,
        "diffusers, images/s": round(outputs / plain, 2),
        "sampler, images/s": round(outputs / ours, 2),
        "sampler, over diffusers": f"{over:+.1%}",
        "diffusers and files, first picture, s": round(written, 2),
        "whole request, first picture, s": round(whole, 2),
        "request, over diffusers": f"{over_written:+.1%}",
    }


def plain_diffusers(case: Case) -> tuple[Any, str]:
    """Return diffusers' pipeline with the LoRA and its tokens as in docs/artifact.md, and its prompt."""
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    location = find_base_model(case.base_model).location
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(location, dtype=dtype, add_watermarker=False)
    pipeline.to("cuda" if cuda else "cpu").set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(case.weights.parent, weight_name=case.weights.name)
    artifact = Artifact.read(case.weights)
    assert artifact.description is not None, "--weights must be an artifact of this trainer"
    names = [name for placeholders in artifact.description.triggers.values() for name in placeholders]
    encoders = (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    )
    for key, encoder, tokenizer in encoders:
        pipeline.load_textual_inversion(artifact.tokens[key], token=names, text_encoder=encoder, tokenizer=tokenizer)
    pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    return pipeline, expand_triggers(case.request(1).prompt, artifact.description.triggers)


def draw_plainly(pipeline: Any, prompt: str, case: Case, outputs: int) -> list[Image.Image]:
    """Generate the images of the request with one call of diffusers."""
    images: list[Image.Image] = pipeline(
        prompt,
        num_images_per_prompt=outputs,
        num_inference_steps=case.steps,
        guidance_scale=case.request(outputs).guidance_scale,
        generator=[torch.Generator().manual_seed(SEED + index) for index in range(outputs)],
    ).images
    return images


def require_same_images(theirs: Sequence[Image.Image], ours: Sequence[Image.Image]) -> None:
    """Raises AssertionError if an image differs by more than rounding; not checked in bf16 on a GPU."""
    if torch.cuda.is_available():
        return
    for one, other in zip(theirs, ours, strict=True):
        difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max()
        assert difference <= TOLERANCE, f"the images differ by {difference} levels"


def by_turns(count: int, theirs: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of both, and the median over `count` pairs of the additional time of ours, as a share. The order
    alternates between pairs, so that neither always runs on a warmer machine.
    """
    pairs = []
    for number in range(count):
        first, second = (theirs, ours) if number % 2 == 0 else (ours, theirs)
        spent = {first: seconds(first)}
        spent[second] = seconds(second)
        pairs.append((spent[theirs], spent[ours]))
    plain, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
    return plain, mine, statistics.median(our / their for their, our in pairs) - 1


def _save(images: Sequence[Image.Image], folder: Path) -> None:
    for index, image in enumerate(images):
        image.save(folder / f"plain-{index}.png")


if __name__ == "__main__":
    main()
