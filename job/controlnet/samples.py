"""Samples of a ControlNet, each with its own condition."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from families.controls.faces import CORNERS, is_faces
from job.output_folder import remove_pictures, write_whole
from job.samples import SampleSettings, as_image, levels_of, sampled_examples
from sampler.request import Control, SampleRequest
from sampler.sampler import Sampler
from trainer.data.latent_cache import CachedExample
from trainer.training import Training
from trainer.validation.sample_prompts import chosen_prompts

CONDITIONS = "conditions"
"""The subfolder of the conditioning images in the folder of the samples."""
BOX_COLOURS = ("red", "lime", "blue", "magenta", "cyan", "yellow")


@dataclass(frozen=True)
class Condition:
    """`picture`: RGB or RGBA. `prompt`: of the sample. `faces`: as in `families.controls.faces`, if they are the
    condition; `picture` then shows their positions."""

    prompt: str
    picture: Image.Image
    faces: Tensor | None = None


def sample_conditions(training: Training, settings: SampleSettings) -> list[Condition]:
    """Return the conditions of held-out images, or of the first training images if there are none, with their captions.

    If the user has set validation_prompt or validation_prompts, the samples have these prompts in turn.
    """
    prompts = chosen_prompts(training.config, training.dataset)
    examples, _ = sampled_examples(training, settings.count)
    return [
        _condition(prompts[number % len(prompts)] if prompts else example.caption, example)
        for number, example in enumerate(examples)
    ]


def _condition(prompt: str, example: CachedExample) -> Condition:
    control = levels_of(example)
    if is_faces(control):
        return Condition(prompt, boxes_of_faces(control, example.views[0].size.target[::-1]), control)
    return Condition(prompt, as_image(control))


def boxes_of_faces(faces: Tensor, size: tuple[int, int]) -> Image.Image:
    """Return a black image of `size` (width, height) with a box of a different colour for each face."""
    picture = Image.new("RGB", size)
    canvas = ImageDraw.Draw(picture)
    for number, face in enumerate(faces.cpu()):
        if face[CORNERS:].any():
            corners = [round(float(place) * side) for place, side in zip(face[:CORNERS], size * 2, strict=True)]
            canvas.rectangle(corners, fill=BOX_COLOURS[number % len(BOX_COLOURS)])
    return picture


def write_control_samples(
    settings: SampleSettings, conditions: Sequence[Condition], training: Training, folder: Path
) -> None:
    """Generate a sample for each condition into `folder`, and write the conditioning images to a subfolder."""
    for old in (folder, folder / CONDITIONS):
        remove_pictures(old)
    if not conditions:
        return
    assert training.controlnet is not None
    controlnet = _in_precision(training.controlnet.module, next(training.family.denoiser.parameters()).dtype)
    sampler = Sampler(training.family)
    (folder / CONDITIONS).mkdir(parents=True, exist_ok=True)
    for number, condition in enumerate(conditions):
        request = SampleRequest(
            prompt=condition.prompt,
            width=condition.picture.width,
            height=condition.picture.height,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            seed=settings.seed + number,
            control=_control(controlnet, condition),
        )
        (image,) = sampler.generate(request, training.triggers)
        image.save(folder / f"{number:02d}.png")
        condition.picture.save(folder / CONDITIONS / f"{number:02d}.png")


def _control(controlnet: Any, condition: Condition) -> Control:
    faces = condition.faces
    return Control(controlnet, condition.picture, find_faces=None if faces is None else lambda _: faces)


def write_prompts(prompts: Sequence[str], path: Path) -> None:
    """Write the prompt of each sample of a step, for the report."""
    write_whole(path, json.dumps(list(prompts), ensure_ascii=False))


def _in_precision(controlnet: Any, dtype: torch.dtype) -> Any:
    """Return the ControlNet, or a copy in the base model's precision: its trained weights are fp32."""
    if controlnet.dtype == dtype:
        return controlnet
    return nn.Module.to(copy.deepcopy(controlnet), dtype)  # diffusers' method warns about layers to keep in fp32
