"""Augmented views of an image: mirrored, smaller crops, other colours. All random numbers come from one generator."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageEnhance

from preprocess.crops.crop import Crop, Window, apply_crop, crop_to_window

COLOUR_CHANGES = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class AugmentationRules:
    """`crop_jitter`: largest share by which a window's sides shrink. `color_jitter`: largest relative change."""

    horizontal_flip: bool = False
    augmented_views: int = 0
    crop_jitter: float = 0.0
    color_jitter: float = 0.0


@dataclass(frozen=True)
class PlannedView:
    """A view before it is rendered. `colour_factors`: of brightness, contrast and saturation; 1 has no effect."""

    crop: Crop
    flipped: bool = False
    colour_factors: tuple[float, ...] = (1.0, 1.0, 1.0)

    def render(self, image: Image.Image) -> Image.Image:
        """Render the view, of size `crop.target`. The crop of a flipped view refers to the mirrored image."""
        cut = self.cut(image)
        for change, factor in zip(COLOUR_CHANGES, self.colour_factors, strict=True):
            if factor != 1.0:
                cut = change(cut).enhance(factor)
        return cut

    def cut(self, image: Image.Image) -> Image.Image:
        """Render the view without colour changes, as for masks."""
        if not self.flipped:
            return apply_crop(image, self.crop)
        return apply_crop(image, self.crop.mirrored()).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def plan_views(crop: Crop, rules: AugmentationRules, seed: str) -> Iterator[PlannedView]:
    """Yield the plain view, its mirror image, then the augmented views. `seed` determines all random numbers for the
    image."""
    generator = random.Random(seed)
    yield PlannedView(crop)
    if rules.horizontal_flip:
        yield PlannedView(crop.mirrored(), flipped=True)
    for _ in range(rules.augmented_views):
        jittered = jitter_crop(crop, rules.crop_jitter, generator)
        factors = tuple(1 + generator.uniform(-rules.color_jitter, rules.color_jitter) for _ in COLOUR_CHANGES)
        flipped = generator.random() < 0.5 and rules.horizontal_flip
        yield PlannedView(jittered.mirrored() if flipped else jittered, flipped, factors)


def jitter_crop(crop: Crop, amount: float, generator: random.Random) -> Crop:
    """Return a random window within the crop's window, smaller by up to `amount`, with the same aspect ratio."""
    window = crop.window()
    share = 1 - generator.uniform(0, amount)
    width, height = window.width * share, window.height * share
    left = window.left + generator.uniform(0, window.width - width)
    top = window.top + generator.uniform(0, window.height - height)
    return crop_to_window(crop.original, Window(left, top, width, height), crop.target)
