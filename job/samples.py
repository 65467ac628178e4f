"""The validation samples: one prompt, the same seeds whenever they are drawn."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.prompt_sets import plain_words
from job.output_folder import OutputFolder
from sampler.sampler import Sampler, SampleRequest
from settings.training import TrainingConfig
from trainer.resolution import validation_prompt


def write_samples(
    config: TrainingConfig, sampler: Sampler, folder: Path, triggers: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Draw `num_validation_images` into `folder`, with whatever is on the base. `triggers`: as `Sampler.generate`."""
    _write(config, sampler, folder, validation_prompt(config), triggers)


def write_samples_before(config: TrainingConfig, sampler: Sampler, folder: Path) -> None:
    """What the bare base makes of the same prompt, with the class word where the trigger stands."""
    class_words = {concept.trigger_word: concept.class_word for concept in config.all_concepts}
    _write(config, sampler, folder, plain_words(validation_prompt(config), config.concept_mode, class_words), None)


def write_samples_of_step(
    config: TrainingConfig, sampler: Sampler, output: OutputFolder, step: int, triggers: Mapping[str, Sequence[str]]
) -> None:
    """The samples of a step in training, for the report's slider."""
    write_samples(config, sampler, output.samples_of_step(step), triggers)
    prompts = json.dumps([validation_prompt(config)] * config.num_validation_images, ensure_ascii=False)
    output.step_prompts.write_text(prompts, encoding="utf-8")


def _write(
    config: TrainingConfig,
    sampler: Sampler,
    folder: Path,
    prompt: str,
    triggers: Mapping[str, Sequence[str]] | None,
) -> None:
    if config.num_validation_images == 0:
        return
    request = SampleRequest(
        prompt=prompt,
        width=config.resolution,
        height=config.resolution,
        num_outputs=config.num_validation_images,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        seed=config.seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(sampler.generate(request, triggers)):
        image.save(folder / f"{index:02d}.png")
