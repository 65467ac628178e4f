"""Pictures of the class, drawn by the base before it is trained: DreamBooth's prior preservation (Ruiz et al. 2023)."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import torch

from families.family import ModelFamily
from job.progress import Progress
from preprocess.captions.trigger import class_template
from preprocess.dataset import are_prepared
from sampler.sampler import Sampler, SampleRequest
from settings.training import TrainingConfig
from trainer.randomness import NamedGenerators

AT_ONCE = 8
LARGEST_SEED = 2**62
AT = 0.05
"""Fraction of the job."""


def class_prompts(config: TrainingConfig) -> list[str]:
    """What the pictures show, in turn: the class of each concept, or what was asked for."""
    if config.class_prompt is not None:
        return [config.class_prompt]
    words = dict.fromkeys(concept.class_word for concept in config.all_concepts if concept.class_word)
    return [class_template(config.concept_mode, word) for word in words]


def with_class_images(
    config: TrainingConfig, sources: Sequence[str | Path], family: ModelFamily, device: torch.device, folder: Path
) -> Generator[Progress, None, TrainingConfig]:
    """Draw them into `folder`. Returns `config` (resolved) with that as its preservation set.

    Afterwards the base is on the CPU: a captioner may need the room. Sources that are prepared already hold what they
    hold, which is said.
    """
    if are_prepared(sources):
        late = f"num_class_images has no effect: {sources[0]} is prepared already. Prepare it anew to change it"
        yield Progress(late, AT, warning=True)
        return config
    family.to(device)
    yield from draw_class_images(config, Sampler(family), folder)
    family.to(torch.device("cpu"))
    return config.model_copy(update={"preservation_data": folder})


def draw_class_images(config: TrainingConfig, sampler: Sampler, folder: Path) -> Iterator[Progress]:
    """Fill `folder` with `num_class_images` pictures and their captions.

    Seeds come from a generator of their own, so that no sample starts from the same noise.
    """
    folder.mkdir(parents=True)
    prompts = class_prompts(config)
    seeds = NamedGenerators(config.seed)["class_images"]
    done = 0
    for turn, prompt in enumerate(prompts):
        share = len(range(turn, config.num_class_images, len(prompts)))
        for start in range(0, share, AT_ONCE):
            numbers = range(done, done + min(AT_ONCE, share - start))
            _write(config, sampler, folder, prompt, numbers, int(torch.randint(LARGEST_SEED, (), generator=seeds)))
            done = numbers.stop
            yield Progress(f"drawing class images: {done} of {config.num_class_images}", AT)


def _write(
    config: TrainingConfig, sampler: Sampler, folder: Path, prompt: str, numbers: Sequence[int], seed: int
) -> None:
    request = SampleRequest(
        prompt=prompt,
        width=config.resolution,
        height=config.resolution,
        num_outputs=len(numbers),
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        seed=seed,
    )
    for number, image in zip(numbers, sampler.generate(request), strict=True):
        image.save(folder / f"class_{number:05d}.png")
        (folder / f"class_{number:05d}.txt").write_text(prompt, encoding="utf-8")
