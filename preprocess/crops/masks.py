"""Masks of the subject: pictures in mode "L" of the picture's own size, 255 on the subject, 0 elsewhere."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from preprocess.dataset import FaceBox
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import load_upright

HEAD = 1.4  # face boxes: an ellipse of that size holds hair, ears and chin
SHAPE_TOLERANCE = 0.02  # of width / height: reduced copies are rounded
SOFTNESS = 0.15  # of the face's size: the blur's standard deviation


def face_mask(face: FaceBox, size: tuple[int, int]) -> Image.Image:
    """An ellipse 1.4 times the face box around its middle, with a soft edge. `size`: (width, height) of the picture."""
    mask = Image.new("L", size)
    across, down = HEAD * face.width / 2, HEAD * face.height / 2
    x, y = face.left + face.width / 2, face.top + face.height / 2
    ImageDraw.Draw(mask).ellipse((x - across, y - down, x + across, y + down), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(SOFTNESS * max(face.width, face.height)))


def opacity_mask(opacity: Image.Image | None) -> Image.Image | None:
    """A picture's opacity as mask; None where it tells nothing: there is none, or the same everywhere."""
    if opacity is None or opacity.getextrema()[0] == opacity.getextrema()[1]:
        return None
    return normalise(opacity)


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """The user's own mask of a picture of `size` (width, height), in another scale perhaps.

    Raises DatasetError for a mask of another shape, a black one, and a file that is no picture.
    """
    mask = load_upright(path)
    if mask.mode in ("RGBA", "LA") and len(set(mask.convert("RGB").getextrema())) == 1:  # drawn in the transparency
        mask = mask.getchannel("A")
    shape, wanted = mask.width / mask.height, size[0] / size[1]
    if abs(shape / wanted - 1) > SHAPE_TOLERANCE:
        raise DatasetError(f"its mask {path.name} is {mask.width}×{mask.height}, and the picture {size[0]}×{size[1]}")
    try:
        levels = normalise(mask)
    except DatasetError as error:
        raise DatasetError(f"its mask {path.name}: {error}") from error
    return levels if levels.size == size else levels.resize(size, Image.Resampling.BILINEAR)


def normalise(mask: Image.Image) -> Image.Image:
    """Any picture of a mask (1, 8, 16 bits, floats, colour) in mode "L", scaled so that its brightest pixel is 255.

    Raises DatasetError for a mask that is black everywhere.
    """
    deep = mask.mode in ("F", "I") or mask.mode.startswith("I;")  # convert("L") would clip these
    levels = np.asarray(mask if deep else mask.convert("L"), np.float64)
    brightest = levels.max()
    if brightest <= 0:
        raise DatasetError(
            "the mask is black everywhere: it marks no subject; paint the subject white, or leave it out"
        )
    return Image.fromarray((levels.clip(0) * (255 / brightest)).round().astype(np.uint8))


def centre_of_mass(mask: Image.Image) -> tuple[float, float]:
    """(x, y) of the middle of what an "L" mask marks, in pixels; the picture's middle when it marks nothing."""
    levels = np.asarray(mask, np.float64)
    total = levels.sum()
    if total == 0:
        return mask.width / 2, mask.height / 2
    x = (levels.sum(axis=0) * (np.arange(mask.width) + 0.5)).sum() / total
    y = (levels.sum(axis=1) * (np.arange(mask.height) + 0.5)).sum() / total
    return float(x), float(y)
