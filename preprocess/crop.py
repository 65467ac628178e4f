"""Which part of an image is trained: pure geometry."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Crop:
    """A resize followed by a cut, in pixels. Sizes are (width, height), `corner` is (left, top) after the resize."""

    original: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    target: tuple[int, int]


def centre_crop(original: tuple[int, int], target: tuple[int, int]) -> Crop:
    """The largest centred window with the target's aspect, scaled to the target. Sizes are (width, height)."""
    scale = max(target[0] / original[0], target[1] / original[1])
    resized = (max(target[0], round(original[0] * scale)), max(target[1], round(original[1] * scale)))
    corner = ((resized[0] - target[0]) // 2, (resized[1] - target[1]) // 2)
    return Crop(original, resized, corner, target)


def apply_crop(image: Image.Image, crop: Crop) -> Image.Image:
    """The picture that is trained, of size `crop.target`."""
    left, top = crop.corner
    resized = image.resize(crop.resized, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return resized.crop((left, top, left + crop.target[0], top + crop.target[1]))
