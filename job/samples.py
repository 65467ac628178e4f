"""Generates the validation samples, always with the same seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from evaluation.prompt_sets import plain_words
from job.output_folder import OutputFolder, remove_pictures, write_whole
from sampler.sampler import Sampler, SampleRequest
from settings.preparation import DataConfig
from settings.sections.validation import ValidationSection
from trainer.data.latent_cache import CachedExample
from trainer.training import Training
from trainer.validation.sample_prompts import validation_prompts


@dataclass(frozen=True)
class SampleSettings:
    """The samples: `count` square images with sides of `side` pixels for each of `prompts`. `plain`: the same prompts
    without trigger words."""

    prompts: tuple[str, ...]
    plain: tuple[str, ...]
    count: int
    side: int
    num_inference_steps: int
    guidance_scale: float
    seed: int

    @classmethod
    def of(cls, validation: ValidationSection, preparation: DataConfig, side: int) -> "SampleSettings":
        """Build from sections with resolved defaults."""
        prompts = validation_prompts(validation, preparation)
        return cls(
            prompts,
            tuple(plain_words(prompt, preparation.concept_mode, preparation.class_words) for prompt in prompts),
            validation.num_validation_images,
            side,
            validation.num_inference_steps,
            validation.guidance_scale,
            preparation.seed,
        )

    @property
    def prompt(self) -> str:
        """The first prompt, used for the verification and the report."""
        return self.prompts[0]

    @property
    def pictures(self) -> int:
        """Number of samples of all prompts."""
        return self.count * len(self.prompts)


def write_samples(
    settings: SampleSettings, sampler: Sampler, folder: Path, triggers: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Generate samples into `folder`, with the adapters that are applied to the base model. `triggers`: as
    `Sampler.generate`."""
    _write(settings, settings.prompts, sampler, folder, triggers)


def write_samples_before(settings: SampleSettings, sampler: Sampler, folder: Path) -> None:
    """Generate the base model's samples of the same prompts, with the class word instead of the trigger word."""
    _write(settings, settings.plain, sampler, folder, None)


def write_samples_of_step(
    settings: SampleSettings, sampler: Sampler, output: OutputFolder, step: int, triggers: Mapping[str, Sequence[str]]
) -> None:
    """Generate the samples of a training step, for the report's slider."""
    write_samples(settings, sampler, output.samples_of_step(step), triggers)
    of_pictures = [prompt for prompt in settings.prompts for _ in range(settings.count)]
    write_whole(output.step_prompts, json.dumps(of_pictures, ensure_ascii=False))


def _write(
    settings: SampleSettings,
    prompts: Sequence[str],
    sampler: Sampler,
    folder: Path,
    triggers: Mapping[str, Sequence[str]] | None,
) -> None:
    """Write the samples of each prompt in turn, all with the same seeds: 00.png, 01.png …"""
    remove_pictures(folder)
    if settings.count == 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for row, prompt in enumerate(prompts):
        request = SampleRequest(
            prompt=prompt,
            width=settings.side,
            height=settings.side,
            num_outputs=settings.count,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            seed=settings.seed,
        )
        for index, image in enumerate(sampler.generate(request, triggers), start=row * settings.count):
            image.save(folder / f"{index:02d}.png")


def sampled_examples(training: Training, count: int) -> tuple[Sequence[CachedExample], bool]:
    """Return the first `count` held-out images, or training images if there are none; and whether they are held out."""
    held = training.held_out
    if held is not None and not held.crops:
        return held.held_out[:count], True
    return training.batches.examples[:count], False


def levels_of(example: CachedExample) -> Tensor:
    """Return the condition cached with an image's latents: an image, uint8 (3 or 4, H, W), or faces (N, 4 + P)."""
    levels = example.views[0].load().control
    assert levels is not None
    return levels


def as_image(levels: Tensor) -> Image.Image:
    """Convert uint8 (C, H, W), on any device, to an image."""
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
