"""Separates the collected images into concept images and the preservation set."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preprocess.captions.pairing import CaptionFinder
from preprocess.dataset import Rejected
from preprocess.uploads.collect import Collected
from preprocess.uploads.intake import FoundFile
from preprocess.uploads.regularisation import regularisation_images
from preprocess.uploads.survey import Surveyed, repeated_in
from settings.preparation import DataConfig

NOT_DRAWN = "not selected, because of max_train_samples"


@dataclass(frozen=True)
class TrainingSet:
    """Images that are labelled by the same rules. `captions`: the caption files of their data."""

    images: Sequence[Surveyed]
    captions: CaptionFinder
    preservation: bool


@dataclass(frozen=True)
class TrainingSets:
    """All images of a run. `left_out`: images beyond max_train_samples, and images of the preservation set that are
    also concept images. `notes`: warnings."""

    collected: Sequence[Collected]
    parts: Sequence[TrainingSet]
    left_out: Sequence[Rejected]
    notes: Sequence[str]

    @property
    def has_concept_images(self) -> bool:
        """Whether there are concept images."""
        return any(part.images for part in self.parts if not part.preservation)

    @property
    def concept_files(self) -> list[FoundFile]:
        """The files of the concept images."""
        return [item.file for part in self.parts if not part.preservation for item in part.images]

    def rejected(self) -> Iterator[Rejected]:
        """Yield all files that are not trained, with the reason. To be called after labelling."""
        for one in self.collected:
            yield from one.all_rejected()
        yield from self.left_out

    def warnings(self) -> Iterator[str]:
        """Yield warnings that concern no single image. To be called after labelling."""
        for one in self.collected:
            yield from one.all_warnings()
        yield from self.notes


def separate(concept: Collected, prior: Collected | None, config: DataConfig) -> TrainingSets:
    """Separate concept images, images in folders of regularisation images, and those of preservation_data."""
    files = regularisation_images([item.file for item in concept.kept], [each.folder for each in config.all_concepts])
    beside = {file.name for file in files}
    own = [item for item in concept.kept if item.file.name not in beside]
    own, unused = _drawn(own, config)
    for image in unused:
        concept.finder.refuse(image.file, NOT_DRAWN)
    preserved = [TrainingSet([item for item in concept.kept if item.file.name in beside], concept.finder, True)]
    if prior is not None:
        preserved.append(TrainingSet(prior.kept, prior.finder, True))
    repeated = [repeated_in(own, part.images) for part in preserved]  # names are unique within a part only
    left_out = [Rejected(image.file.name, f"{image.file.name}: {NOT_DRAWN}") for image in unused]
    rejected = [Rejected(name, _repetition(name, known)) for each in repeated for name, known in each.items()]
    parts = [TrainingSet(own, concept.finder, False)]
    for part, names in zip(preserved, repeated, strict=True):
        images = [item for item in part.images if item.file.name not in names]
        parts += [TrainingSet(images, part.captions, True)] if images else []
        for item in part.images:
            if (known := names.get(item.file.name)) is not None:
                part.captions.refuse(item.file, _repetition(item.file.name, known))
    notes = [_preservation_note(sorted(beside))] if beside else []
    if rejected and not any(part.preservation for part in parts):
        notes.append(
            "the preservation set is empty, so the base model's prior is not preserved; use other images of the class"
        )
    return TrainingSets([concept] if prior is None else [concept, prior], parts, [*left_out, *rejected], notes)


def _drawn(images: list[Surveyed], config: DataConfig) -> tuple[list[Surveyed], list[Surveyed]]:
    """Return the images selected by max_train_samples, in their order, and the others."""
    most = config.max_train_samples
    if most is None or len(images) <= most:
        return images, []
    chosen = set(random.Random(config.seed).sample(range(len(images)), most))
    return [each for number, each in enumerate(images) if number in chosen], [
        each for number, each in enumerate(images) if number not in chosen
    ]


def _repetition(name: str, known: str) -> str:
    return f"{name}: is also a concept image ({known}), so it is left out of the preservation set"


def _preservation_note(names: Sequence[str]) -> str:
    folder = names[0].rsplit("/", 1)[0]
    return (
        f"{folder}: {len(names)} images in a folder of regularisation images are used as the preservation set; rename "
        "the folder, or add it to concepts, to train them as a concept"
    )
