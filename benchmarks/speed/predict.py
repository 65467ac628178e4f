"""What the predictor costs: loading a base, putting a LoRA on it and taking it off, and drawing beside plain diffusers.

python -m benchmarks.speed.predict [--pairs 12] [--steps 30] [--outputs 1] [--base_model mini-sdxl --weights FILE]
"""

import argparse
import statistics
import time
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
from benchmarks.record import markdown, write_record
from benchmarks.speed.train_step import Bench
from benchmarks.speed.train_step import Case as TrainingCase
from families.loading.sources import find_base_model
from families.parts.placeholder_tokens import expand_triggers
from sampler.generation import Generation
from sampler.sampler import Sampler, SampleRequest
from service.prediction_inputs import PredictionInputs, predict
from settings.command_line.parser import CommandParser

SEED = 7
TRIGGER = "TOK"
TOLERANCE = 1
"""Of 255 levels, in fp32: both sides must give equal images for their times to be comparable."""


@dataclass(frozen=True)
class Case:
    """The samples to generate, and the number of repetitions. `weights`: an artifact for an SDXL base."""

    base_model: str
    weights: Path
    pairs: int = 12
    steps: int = 30
    outputs: int = 1

    @property
    def request(self) -> SampleRequest:
        return SampleRequest(
            f"a photo of {TRIGGER} on a blue background", num_outputs=self.outputs, num_inference_steps=self.steps,
            seed=SEED,
        )  # fmt: skip


def main() -> None:
    """Measure, print the table, write benchmarks/results/predict.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12, help="the table has medians over as many, taken by turns")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--outputs", type=int, default=1, help="images a request")
    parser.add_argument("--base_model", default="mini-sdxl", help="in SDXL's layout: a folder, or mini-sdxl")
    parser.add_argument("--weights", type=Path, help="by default a LoRA of rank 16 that is trained first, for a moment")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        weights = given.weights or make_weights(Path(scratch))
        rows = measure(Case(given.base_model, weights, given.pairs, given.steps, given.outputs), Path(scratch))
    print(markdown(rows))
    print(write_record("predict", rows, vars(given)))


def make_weights(folder: Path) -> Path:
    """A LoRA on all attention layers of the embedded base, trained for two steps so that no layer is empty."""
    training = Bench("mini-sdxl", folder).begin(TrainingCase(resolution=64, batch=4, rank=16), steps=2)
    list(training.trainer.steps())
    training.write(folder / "weights.safetensors")
    training.remove()
    return folder / "weights.safetensors"


def measure(case: Case, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each measured operation. Raises AssertionError when base or images are not as expected."""
    load = _median(case.pairs, lambda: Generation(_silent).prepare(None, case.base_model))
    generation = Generation(_silent)
    sampler = generation.prepare(None, case.base_model)
    swap, back = swap_times(sampler, case)
    pipeline, prompt = plain_diffusers(case)

    def by_diffusers() -> list[Image.Image]:
        return draw_plainly(pipeline, prompt, case)

    def by_request() -> list[Path]:
        inputs = PredictionInputs(
            case.request.prompt, lora=str(case.weights), lora_scale="1", base_model=case.base_model,
            num_outputs=case.outputs, num_inference_steps=case.steps, seed=SEED,
        )  # fmt: skip
        return predict(
            inputs, generation, folder / "images", local_files=True, say=_silent, metric=lambda name, value: None
        ).paths

    sampler.load(Artifact.read(case.weights))
    require_same_images(by_diffusers(), sampler.generate(case.request))
    plain, ours, over = by_turns(case, by_diffusers, lambda: sampler.generate(case.request))
    sampler.unload()
    plain_too, request, over_request = by_turns(case, lambda: _save(by_diffusers(), folder), by_request)
    return [
        _row("base loaded", load, load),
        _row("LoRA read and put on the base", swap, load),
        _row("base restored", back, load),
        _row("image drawn, plain diffusers", plain, load, images=True),
        _row("image drawn, sampler", ours, load, images=True, over=over),
        _row("image drawn and written, plain diffusers, LoRA in place", plain_too, load, images=True),
        _row("image, whole request, LoRA put on and taken off", request, load, images=True, over=over_request),
    ]


def swap_times(sampler: Sampler, case: Case) -> tuple[float, float]:
    """Return the median seconds to read and place the LoRA, and to restore the base exactly."""
    parts = (sampler.family.denoiser, *sampler.family.text_encoders)
    before = [list(part.named_parameters()) for part in parts]
    kept = [[parameter.clone() for _, parameter in part.named_parameters()] for part in parts]
    placing, removing = [], []
    for _ in range(case.pairs):
        placing.append(_seconds(lambda: sampler.load(Artifact.read(case.weights))))
        removing.append(_seconds(sampler.unload))
    for part, names, values in zip(parts, before, kept, strict=True):
        for (name, parameter), (name_before, parameter_before), value in zip(
            part.named_parameters(), names, values, strict=True
        ):
            assert name == name_before and parameter is parameter_before and torch.equal(parameter, value), name
    return statistics.median(placing), statistics.median(removing)


def plain_diffusers(case: Case) -> tuple[Any, str]:
    """Return diffusers' pipeline with the LoRA and its tokens as in docs/artifact.md, and its prompt."""
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    location = find_base_model(case.base_model).location
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(location, dtype=dtype, add_watermarker=False)
    pipeline.to("cuda" if cuda else "cpu").set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(case.weights.parent, weight_name=case.weights.name)
    artifact = Artifact.read(case.weights)
    assert artifact.description is not None, "an artifact of ours is needed"
    names = [name for placeholders in artifact.description.triggers.values() for name in placeholders]
    encoders = (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    )
    for key, encoder, tokenizer in encoders:
        pipeline.load_textual_inversion(artifact.tokens[key], token=names, text_encoder=encoder, tokenizer=tokenizer)
    pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    return pipeline, expand_triggers(case.request.prompt, artifact.description.triggers)


def draw_plainly(pipeline: Any, prompt: str, case: Case) -> list[Image.Image]:
    """Generate the images of the request by one call of diffusers."""
    images: list[Image.Image] = pipeline(
        prompt,
        num_images_per_prompt=case.outputs,
        num_inference_steps=case.steps,
        guidance_scale=case.request.guidance_scale,
        generator=[torch.Generator().manual_seed(SEED + index) for index in range(case.outputs)],
    ).images
    return images


def require_same_images(theirs: Sequence[Image.Image], ours: Sequence[Image.Image]) -> None:
    """Raises AssertionError where an image differs by more than rounding; not checked in bf16 on a GPU."""
    if torch.cuda.is_available():
        return
    for one, other in zip(theirs, ours, strict=True):
        difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max()
        assert difference <= TOLERANCE, f"the images differ by {difference} levels"


def by_turns(case: Case, theirs: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds an image of both, and the median over pairs of what ours takes more, as a share.

    The one that begins changes with each pair, so that neither always runs on a warmer machine.
    """
    pairs = []
    for number in range(case.pairs):
        first, second = (theirs, ours) if number % 2 == 0 else (ours, theirs)
        seconds = {first: _seconds(first) / case.outputs}
        seconds[second] = _seconds(second) / case.outputs
        pairs.append((seconds[theirs], seconds[ours]))
    plain, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
    return plain, mine, statistics.median(our / their for their, our in pairs) - 1


def _row(what: str, seconds: float, load: float, *, images: bool = False, over: float | None = None) -> dict[str, Any]:
    return {
        "what": what,
        "ms": round(1000 * seconds, 1),
        "of a load": "" if images else f"{seconds / load:.1%}",
        "images/s": round(1 / seconds, 2) if images else "",
        "over diffusers": "" if over is None else f"{over:+.1%}",
    }


def _median(count: int, action: Callable[[], object]) -> float:
    return statistics.median(_seconds(action) for _ in range(count))


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _save(images: Sequence[Image.Image], folder: Path) -> None:
    for index, image in enumerate(images):
        image.save(folder / f"plain-{index}.png")


def _silent(line: str) -> None:
    """Discard the predictor's messages, whose printing is not measured."""


if __name__ == "__main__":
    main()
