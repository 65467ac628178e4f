"""Masks of the subject: images in mode "L" of the image's size, 255 on the subject, 0 elsewhere."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from preprocess.dataset import FaceBox
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import load_upright

HEAD = 1.4  # in face boxes: an ellipse of that size covers hair, ears and chin
SHAPE_TOLERANCE = 0.02  # relative difference of width / height: reduced copies are rounded
SOFTNESS = 0.15  # standard deviation of the blur, in face sizes


def face_mask(face: FaceBox, size: tuple[int, int]) -> Image.Image:
    """Draw an ellipse with a soft edge, 1.4 times the size of the face box. `size`: (width, height) of the image."""
    mask = Image.new("L", size)
    across, down = HEAD * face.width / 2, HEAD * face.height / 2
    x, y = face.left + face.width / 2, face.top + face.height / 2
    ImageDraw.Draw(mask).ellipse((x - across, y - down, x + across, y + down), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(SOFTNESS * max(face.width, face.height)))


def opacity_mask(opacity: Image.Image | None) -> Image.Image | None:
    """Return an image's opacity as a mask; None where it is missing or uniform."""
    if opacity is None or opacity.getextrema()[0] == opacity.getextrema()[1]:
        return None
    return normalise(opacity)


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """Read the user's mask of an image of `size` (width, height), and scale it to that size.

    Raises DatasetError for another aspect ratio, a black mask, or a file that is not an image.
    """
    mask = load_upright(path)
    if mask.mode in ("RGBA", "LA") and _is_uniform(mask.convert("RGB")) and not _is_uniform(mask.getchannel("A")):
        mask = mask.getchannel("A")  # painted as transparency alone
    shape, wanted = mask.width / mask.height, size[0] / size[1]
    if abs(shape / wanted - 1) > SHAPE_TOLERANCE:
        raise DatasetError(f"its mask {path.name} is {mask.width}×{mask.height}, and the image {size[0]}×{size[1]}")
    try:
        levels = normalise(mask)
    except DatasetError as error:
        raise DatasetError(f"its mask {path.name}: {error}") from error
    return levels if levels.size == size else levels.resize(size, Image.Resampling.BILINEAR)


def _is_uniform(image: Image.Image) -> bool:
    """Whether all pixels of an "L" or RGB image are equal."""
    return bool((np.asarray(image) == np.asarray(image)[:1, :1]).all())


def normalise(mask: Image.Image) -> Image.Image:
    """Convert a mask of any mode (1, 8, 16 bits, floats, colour) to mode "L", scaled so that its brightest pixel is
    255.

    Raises DatasetError for a mask that is black everywhere.
    """
    deep = mask.mode in ("F", "I") or mask.mode.startswith("I;")  # convert("L") would clip these
    levels = np.asarray(mask if deep else mask.convert("L"), np.float64)
    brightest = levels.max()
    if brightest <= 0:
        raise DatasetError("the mask is black everywhere; paint the subject white, or remove the mask")
    return Image.fromarray((levels.clip(0) * (255 / brightest)).round().astype(np.uint8))


def centre_of_mass(mask: Image.Image) -> tuple[float, float]:
    """Return the centre of mass (x, y) of an "L" mask in pixels; the middle of the image for an empty mask."""
    levels = np.asarray(mask, np.float64)
    total = levels.sum()
    if total == 0:
        return mask.width / 2, mask.height / 2
    x = (levels.sum(axis=0) * (np.arange(mask.width) + 0.5)).sum() / total
    y = (levels.sum(axis=1) * (np.arange(mask.height) + 0.5)).sum() / total
    return float(x), float(y)
