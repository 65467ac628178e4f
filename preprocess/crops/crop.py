"""The geometry of a crop, which is applied to images and their masks."""

from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
"""(width, height) in pixels."""
MAX_ENLARGEMENT = 1.5
"""Largest enlargement of an image. Above it, the lack of detail would be learned."""


@dataclass(frozen=True)
class Window:
    """A part of an image in pixels of the image, not rounded."""

    left: float
    top: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the window: (x, y)."""
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass(frozen=True)
class Crop:
    """A resize of the whole image followed by a cut, in pixels. Sizes are (width, height).

    `corner` is (left, top) in the resized image: SDXL's crop conditioning (Podell et al. 2023, §2.2).
    """

    original: Size
    resized: Size
    corner: Size
    target: Size

    def window(self) -> Window:
        """Return the kept part in pixels of the original."""
        scale_x, scale_y = self.original[0] / self.resized[0], self.original[1] / self.resized[1]
        return Window(
            self.corner[0] * scale_x, self.corner[1] * scale_y, self.target[0] * scale_x, self.target[1] * scale_y
        )

    def mirrored(self) -> "Crop":
        """Return the crop that yields the mirror image of this crop's result when applied to the mirrored image."""
        return Crop(
            self.original,
            self.resized,
            (self.resized[0] - self.target[0] - self.corner[0], self.corner[1]),
            self.target,
        )

    def enlargement(self) -> float:
        """Return the factor by which the image is enlarged; below 1 it is reduced."""
        return max(self.resized[0] / self.original[0], self.resized[1] / self.original[1])


def crop_to_window(original: Size, window: Window, target: Size) -> Crop:
    """Return the crop of `window` scaled to `target`, which must have the same aspect ratio. Never stretches or
    pads."""
    scale = max(target[0] / window.width, target[1] / window.height)
    resized = (max(target[0], round(original[0] * scale)), max(target[1], round(original[1] * scale)))
    left = min(max(0, round(window.left * resized[0] / original[0])), resized[0] - target[0])
    top = min(max(0, round(window.top * resized[1] / original[1])), resized[1] - target[1])
    return Crop(original, resized, (left, top), target)


def largest_window(original: Size, aspect: float, centre: tuple[float, float] | None = None) -> Window:
    """Return the largest window with `aspect` (width / height), as near to `centre` as the image allows."""
    width = min(float(original[0]), original[1] * aspect)
    x, y = centre or (original[0] / 2, original[1] / 2)
    return window_inside(original, width, width / aspect, (x - width / 2, y - width / aspect / 2))


def window_inside(original: Size, width: float, height: float, corner: tuple[float, float]) -> Window:
    """Return the window of that size whose corner (left, top) is as near to `corner` as the image allows."""
    left, top = (
        max(0.0, min(start, limit - length))
        for start, length, limit in zip(corner, (width, height), original, strict=True)
    )
    return Window(left, top, width, height)


def centre_crop(original: Size, target: Size) -> Crop:
    """Return the largest centred window with the target's aspect ratio, scaled to the target."""
    return crop_to_window(original, largest_window(original, target[0] / target[1]), target)


def apply_crop(image: Image.Image, crop: Crop) -> Image.Image:
    """Apply the crop: the result has the size `crop.target`. `image` may have another scale than `crop.original`."""
    left, top = crop.corner
    resized = image.resize(crop.resized, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return resized.crop((left, top, left + crop.target[0], top + crop.target[1]))
