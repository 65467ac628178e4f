"""Samples of a ControlNet: each of a condition of its own, which lies beside them."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from job.samples import SampleSettings, as_image, levels_of, sampled_examples
from sampler.request import Control, SampleRequest
from sampler.sampler import Sampler
from trainer.training import Training

CONDITIONS = "conditions"
"""The folder of the conditions, inside of that of the samples."""


@dataclass(frozen=True)
class Condition:
    """`picture`: in colour, or with opacity. `prompt`: what is drawn."""

    prompt: str
    picture: Image.Image


def sample_conditions(training: Training, settings: SampleSettings) -> list[Condition]:
    """Of images that are not trained where there are such, else of the first ones that are, with their captions.

    A validation_prompt that the user has set is that of all.
    """
    prompt = training.config.given.get("validation_prompt")
    examples, _ = sampled_examples(training, settings.count)
    return [Condition(prompt or example.caption, as_image(levels_of(example))) for example in examples]


def write_control_samples(
    settings: SampleSettings, conditions: Sequence[Condition], training: Training, folder: Path
) -> None:
    """Draw a sample for each condition into `folder`, and the conditions into a folder in it."""
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
            control=Control(controlnet, condition.picture),
        )
        (image,) = sampler.generate(request, training.triggers)
        image.save(folder / f"{number:02d}.png")
        condition.picture.save(folder / CONDITIONS / f"{number:02d}.png")


def write_prompts(prompts: Sequence[str], path: Path) -> None:
    """The prompts of the samples of a step, one for each, for the report."""
    path.write_text(json.dumps(list(prompts), ensure_ascii=False), encoding="utf-8")


def _in_precision(controlnet: Any, dtype: torch.dtype) -> Any:
    """The ControlNet itself, or a copy in the base's precision: its own are fp32."""
    if controlnet.dtype == dtype:
        return controlnet
    return nn.Module.to(copy.deepcopy(controlnet), dtype)  # diffusers' own warns of layers to keep in fp32
