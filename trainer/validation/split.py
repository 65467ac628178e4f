"""Splits off the validation set: whole images, or crops if there are few images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Generator

from families.controls.faces import is_faces
from families.family import SizeConditioning
from preprocess.control.faces import padded, within
from preprocess.crops.crop import Window
from trainer.data.latent_cache import CachedExample, CachedView, by_picture

MOST_IMAGES = 16
MOST_CROPS = 4
CROP = 0.75
"""Side of a crop relative to the image."""


@dataclass(frozen=True)
class Split:
    """`crops`: whether `held_out` contains crops of images in `trained`."""

    trained: list[CachedExample]
    held_out: list[CachedExample]
    crops: bool

    @property
    def description(self) -> str:
        """A description for the log."""
        count = len(self.held_out)
        if self.crops:
            return f"{count} crops of the training images"
        images = len(by_picture(self.held_out))
        sizes = "" if images == count else f", in all {count} sizes of them"
        return f"{images} images that are not trained{sizes}"


def split(examples: Sequence[CachedExample], share: float, size_multiple: int, generator: Generator) -> Split:
    """Hold out a random `share` of the concepts' images, at most 16, or crops if that is less than one image.

    Each concept keeps an image to train on. `size_multiple`: the sides in pixels must be multiples of it. An image is
    held out at all of its resolutions.
    """
    pictures = by_picture(examples)
    order = torch.randperm(len(pictures), generator=generator).tolist()
    candidates = [pictures[place] for place in order if examples[pictures[place][0]].concept is not None]
    wanted = min(MOST_IMAGES, int(share * len(candidates)))
    left = Counter(examples[indices[0]].concept for indices in candidates)
    if wanted == 0 or max(left.values(), default=0) < 2:  # no concept has more than one image
        crops = [_crop(examples[indices[0]], size_multiple, generator) for indices in candidates[:MOST_CROPS]]
        return Split(list(examples), crops, crops=True)
    held: list[int] = []
    for indices in candidates:
        concept = examples[indices[0]].concept
        if wanted > 0 and left[concept] > 1:
            held += indices
            wanted -= 1
            left[concept] -= 1
    trained = [example for index, example in enumerate(examples) if index not in held]
    return Split(trained, [examples[index] for index in held], crops=False)


def _crop(example: CachedExample, size_multiple: int, generator: Generator) -> CachedExample:
    view = example.views[0].load()
    whole = view.moments.shape[-2:]
    scales = [Fraction(target, side) for target, side in zip(view.size.target, whole, strict=True)]  # pixels per latent
    sides = [_side(length, max(1, int(size_multiple // scale))) for length, scale in zip(whole, scales, strict=True)]
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator))
        for length, side in zip(whole, sides, strict=True)
    )
    rows, columns = slice(top, top + sides[0]), slice(left, left + sides[1])
    size = SizeConditioning(
        view.size.original,
        (view.size.crop[0] + round(top * scales[0]), view.size.crop[1] + round(left * scales[1])),
        (round(sides[0] * scales[0]), round(sides[1] * scales[1])),
    )
    mask = None if view.mask is None else view.mask[:, rows, columns]
    control = None
    if view.control is not None and is_faces(view.control):
        height, width = whole
        window = Window(left / width, top / height, sides[1] / width, sides[0] / height)
        seen = within(view.control.cpu().numpy(), window)
        control = torch.from_numpy(padded(seen, len(view.control))).to(view.control.device)
    elif view.control is not None:
        control = view.control[
            :, *(_in_pixels(part, scale) for part, scale in zip((rows, columns), scales, strict=True))
        ]
    return replace(example, views=(CachedView(view.moments[:, rows, columns], mask, size, control),))


def _in_pixels(part: slice, scale: Fraction) -> slice:
    start = round(part.start * scale)
    return slice(start, start + round((part.stop - part.start) * scale))


def _side(length: int, multiple: int) -> int:
    return max(multiple, int(length * CROP) // multiple * multiple)
