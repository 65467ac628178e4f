"""Pictures of the class, drawn by the base before it is trained: DreamBooth's prior preservation (Ruiz et al. 2023)."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from families.family import ModelFamily
from job.progress import Progress, stage_progress
from preprocess.captions.trigger import class_template
from preprocess.dataset import are_prepared
from preprocess.progress import StageProgress
from sampler.sampler import Sampler, SampleRequest
from settings.preparation import DataConfig
from settings.sections.class_images import ClassImagesSection
from settings.sections.validation import ValidationSection
from trainer.randomness import NamedGenerators

AT_ONCE = 8
LARGEST_SEED = 2**62


@dataclass(frozen=True)
class ClassImageSettings:
    """What is drawn: `count` pictures of the prompts in turn, squares of `side` pixels."""

    prompts: tuple[str, ...]
    count: int
    side: int
    num_inference_steps: int
    guidance_scale: float
    seed: int

    @classmethod
    def of(
        cls, class_images: ClassImagesSection, validation: ValidationSection, preparation: DataConfig, side: int
    ) -> "ClassImageSettings":
        """As the settings say; steps and guidance are those of the samples."""
        return cls(
            tuple(class_prompts(class_images.class_prompt, preparation)),
            class_images.num_class_images,
            side,
            validation.num_inference_steps,
            validation.guidance_scale,
            preparation.seed,
        )


def class_prompts(class_prompt: str | None, preparation: DataConfig) -> list[str]:
    """What the pictures show, in turn: the class of each concept, or what was asked for."""
    if class_prompt is not None:
        return [class_prompt]
    words = dict.fromkeys(concept.class_word for concept in preparation.all_concepts if concept.class_word)
    return [class_template(preparation.concept_mode, word) for word in words]


def with_class_images(
    settings: ClassImageSettings,
    preparation: DataConfig,
    sources: Sequence[str | Path],
    family: ModelFamily,
    device: torch.device,
    folder: Path,
    fraction: float,
) -> Generator[Progress, None, DataConfig]:
    """Draw them into `folder`, at a `fraction` of the job. Returns `preparation` with that as its preservation set.

    Afterwards the base is on the CPU: a captioner may need the room. Sources that are prepared already hold what they
    hold, which is said.
    """
    if are_prepared(sources):
        late = f"num_class_images has no effect: {sources[0]} is prepared already. Prepare it anew to change it"
        yield Progress(late, fraction, warning=True)
        return preparation
    family.to(device)
    yield from draw_class_images(settings, Sampler(family), folder, fraction)
    family.to(torch.device("cpu"))
    return preparation.model_copy(update={"preservation_data": folder})


def draw_class_images(
    settings: ClassImageSettings, sampler: Sampler, folder: Path, fraction: float
) -> Iterator[Progress]:
    """Fill `folder` with pictures and their captions.

    Seeds come from a generator of their own, so that no sample starts from the same noise.
    """
    folder.mkdir(parents=True)
    seeds = NamedGenerators(settings.seed)["class_images"]
    done = 0
    for turn, prompt in enumerate(settings.prompts):
        share = len(range(turn, settings.count, len(settings.prompts)))
        for start in range(0, share, AT_ONCE):
            numbers = range(done, done + min(AT_ONCE, share - start))
            _write(settings, sampler, folder, prompt, numbers, int(torch.randint(LARGEST_SEED, (), generator=seeds)))
            done = numbers.stop
            yield stage_progress(StageProgress("drawing class images", done, settings.count), fraction)


def _write(
    settings: ClassImageSettings, sampler: Sampler, folder: Path, prompt: str, numbers: Sequence[int], seed: int
) -> None:
    request = SampleRequest(
        prompt=prompt,
        width=settings.side,
        height=settings.side,
        num_outputs=len(numbers),
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        seed=seed,
    )
    for number, image in zip(numbers, sampler.generate(request), strict=True):
        image.save(folder / f"class_{number:05d}.png")
        (folder / f"class_{number:05d}.txt").write_text(prompt, encoding="utf-8")
