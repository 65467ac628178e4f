"""Reference images for the scores: the training images, with and without their background."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from preprocess.dataset import Example, PreparedDataset

GREY = (127, 127, 127)
MAX_REFERENCES = 32
"""Largest number of reference images, evenly spread over the dataset. More images hardly change the means."""


@dataclass(frozen=True)
class References:
    """`pictures`: the plain views of a concept's images. `masked`: those with a mask, grey outside it."""

    pictures: list[Image.Image]
    masked: list[Image.Image]


def references(dataset: PreparedDataset, concept: str | None = None) -> References:
    """Return the images of one concept (a trigger word), by default of all concepts, without the preservation set.
    Raises ValueError if there are none.
    """
    wanted = [
        example
        for example in dataset.largest
        if example.concept is not None and (concept is None or example.concept == concept)
    ]
    if not wanted:
        raise ValueError(f"the dataset has no images of {concept or 'any concept'} to compare samples with")
    count = min(len(wanted), MAX_REFERENCES)
    chosen = [wanted[index * len(wanted) // count] for index in range(count)]
    masked = [picture for example in chosen if (picture := _masked(dataset.folder, example)) is not None]
    return References([_open(dataset.folder / example.views[0].file) for example in chosen], masked)


def without_surroundings(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the image blended with grey by the mask (mode L, same size): grey where the mask is 0."""
    return Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, GREY), mask.convert("L"))


def _masked(folder: Path, example: Example) -> Image.Image | None:
    view = example.views[0]
    if view.mask is None:
        return None
    picture, mask = _open(folder / view.file), _open(folder / view.mask)
    return without_surroundings(picture, mask)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()
