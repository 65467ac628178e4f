"""Generates the validation samples, always with the same seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.prompt_sets import plain_words
from job.output_folder import OutputFolder
from sampler.sampler import Sampler, SampleRequest
from settings.preparation import DataConfig
from settings.sections.validation import ValidationSection
from trainer.resolution import validation_prompt


@dataclass(frozen=True)
class SampleSettings:
    """Settings of the samples: `count` pictures of `prompt`, squares of `side` pixels. `plain`: the prompt without
    trigger words."""

    prompt: str
    plain: str
    count: int
    side: int
    num_inference_steps: int
    guidance_scale: float
    seed: int

    @classmethod
    def of(cls, validation: ValidationSection, preparation: DataConfig, side: int) -> "SampleSettings":
        """From sections whose defaults are filled in."""
        prompt = validation_prompt(validation, preparation) or ""
        return cls(
            prompt,
            plain_words(prompt, preparation.concept_mode, preparation.class_words),
            validation.num_validation_images,
            side,
            validation.num_inference_steps,
            validation.guidance_scale,
            preparation.seed,
        )


def write_samples(
    settings: SampleSettings, sampler: Sampler, folder: Path, triggers: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Generate samples into `folder` with the adapters that are on the base. `triggers`: as in `Sampler.generate`."""
    _write(settings, settings.prompt, sampler, folder, triggers)


def write_samples_before(settings: SampleSettings, sampler: Sampler, folder: Path) -> None:
    """Generate samples of the base, with the class word in place of the trigger."""
    _write(settings, settings.plain, sampler, folder, None)


def write_samples_of_step(
    settings: SampleSettings, sampler: Sampler, output: OutputFolder, step: int, triggers: Mapping[str, Sequence[str]]
) -> None:
    """Generate the samples of a training step, for the report's slider."""
    write_samples(settings, sampler, output.samples_of_step(step), triggers)
    output.step_prompts.write_text(json.dumps([settings.prompt] * settings.count, ensure_ascii=False), encoding="utf-8")


def _write(
    settings: SampleSettings,
    prompt: str,
    sampler: Sampler,
    folder: Path,
    triggers: Mapping[str, Sequence[str]] | None,
) -> None:
    if settings.count == 0:
        return
    request = SampleRequest(
        prompt=prompt,
        width=settings.side,
        height=settings.side,
        num_outputs=settings.count,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        seed=settings.seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(sampler.generate(request, triggers)):
        image.save(folder / f"{index:02d}.png")
