"""Computes the conditioning image of a ControlNet from a training image of the same size."""

import random
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image, ImageDraw

CANNY_THRESHOLDS = (100, 200)
"""Thresholds of gradients, as usual since the first ControlNets (Zhang et al. 2023)."""
SCRIBBLE_THRESHOLDS = (40, 80)
SCRIBBLE_WIDTH = 1 / 100
"""Width of the strokes as a fraction of the shorter side, and of the blur that removes fine detail."""
REDUCTION = 4
"""Factor of the sides, for super-resolution."""
MOST_HOLES = 4
HOLE_SIDES = (0.15, 0.6)
"""Smallest and largest hole, as fractions of the image's sides."""


def canny(picture: Image.Image, draws: random.Random) -> Image.Image:
    """White edges on black, one pixel wide."""
    return _in_colour(cv2.Canny(np.asarray(picture), *CANNY_THRESHOLDS))


def grey(picture: Image.Image, draws: random.Random) -> Image.Image:
    """Brightness only, from which the ControlNet learns to generate colours."""
    return picture.convert("L").convert("RGB")


def scribble(picture: Image.Image, draws: random.Random) -> Image.Image:
    """White strokes on black along the large contours."""
    width = max(3, round(SCRIBBLE_WIDTH * min(picture.size))) | 1
    smooth = cv2.GaussianBlur(np.asarray(picture), (2 * width + 1, 2 * width + 1), width / 2)
    return _in_colour(cv2.dilate(cv2.Canny(smooth, *SCRIBBLE_THRESHOLDS), np.ones((width, width), np.uint8)))


def inpainting(picture: Image.Image, draws: random.Random) -> Image.Image:
    """The image with 1 to 4 rectangular or elliptic holes: transparent black."""
    opacity = Image.new("L", picture.size, 255)
    canvas = ImageDraw.Draw(opacity)
    for _ in range(draws.randint(1, MOST_HOLES)):
        width, height = (max(1.0, draws.uniform(*HOLE_SIDES) * side) for side in picture.size)
        left, top = draws.uniform(0, picture.width - width), draws.uniform(0, picture.height - height)
        shape = canvas.rectangle if draws.random() < 0.5 else canvas.ellipse
        shape((left, top, left + width, top + height), fill=0)
    holed = Image.composite(picture, Image.new("RGB", picture.size), opacity)
    holed.putalpha(opacity)
    return holed


def super_resolution(picture: Image.Image, draws: random.Random) -> Image.Image:
    """The image reduced to a quarter of its sides and enlarged again, as blurred as an enlarged small image."""
    small = tuple(max(1, side // REDUCTION) for side in picture.size)
    reduced = picture.resize((small[0], small[1]), Image.Resampling.BOX)
    return reduced.resize(picture.size, Image.Resampling.BICUBIC)


FILTERS: Mapping[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "canny": canny,
    "grey": grey,
    "scribble": scribble,
    "inpainting": inpainting,
    "super_resolution": super_resolution,
}
"""The filters, by the values of the setting `control`."""


def _in_colour(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([levels] * 3, axis=-1))
