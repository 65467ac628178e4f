"""Synthetic photographs, with the sizes of cameras and crops, and as difficult to compress as real ones. They are
generated from seeds, so that two measurements use the same data.
"""

import math
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.crops.crop import Size

CAMERA_ASPECTS = ((3, 2), (4, 3), (16, 9), (1, 1), (5, 4))
LARGEST_ASPECT = 2.0
FIELD_SIDE = 2048  # pixels, a power of two: side of the noise from which images are cut
FIELDS = 6
CONTRAST = 46.0  # standard deviation of the brightness, of 255
GRAIN = 3.2  # standard deviation of the sensor's noise, of 255
JPEG_QUALITY = 88


def photograph_sizes(count: int, seed: int = 0) -> list[Size]:
    """(width, height): the usual aspect ratios with small deviations, up to 1:2, with 1 to 16 million pixels."""
    generator = random.Random(seed)
    sizes = []
    for _ in range(count):
        width, height = generator.choice(CAMERA_ASPECTS)
        aspect = width / height * generator.uniform(0.9, 1.1)
        aspect = min(LARGEST_ASPECT, 1 / aspect if generator.random() < 0.4 else aspect)
        sizes.append(_of_area(generator.uniform(1000, 4000), aspect))
    return sizes


def scaled_sizes(count: int, side: int, seed: int = 0) -> list[Size]:
    """The aspect ratios of `photograph_sizes`, each with about `side`² pixels."""
    return [_of_area(side, width / height) for width, height in photograph_sizes(count, seed)]


def write_photographs(folder: Path, sizes: Sequence[Size], seed: int = 0) -> int:
    """Write one JPEG per size into `folder`, on all cores. Sides are at most FIELD_SIDE. Returns the total number of
    bytes."""
    scenery = Scenery(seed)

    def write(numbered: tuple[int, Size]) -> int:
        index, size = numbered
        path = folder / f"photograph_{index:06d}.jpg"
        scenery.photograph(size, seed, index).save(path, quality=JPEG_QUALITY)
        return path.stat().st_size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(write, enumerate(sizes)))


class Scenery:
    """Noise with the spectrum of natural images, amplitude ∝ 1/f (Field 1987), from which images are cut. An image
    consists of two windows of it, one visible through the holes of the other, like things in front of a background.
    """

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._fields = np.stack([_natural_field(generator) for _ in range(FIELDS)])
        self._grain = (generator.standard_normal((FIELD_SIDE, FIELD_SIDE), np.float32) * GRAIN).astype(np.int16)

    def photograph(self, size: Size, seed: int, index: int) -> Image.Image:
        """Return the RGB image of this size and number. Equal arguments give equal pixels."""
        generator = np.random.default_rng((seed, index))
        behind, before, holes = (self._window(size, generator) for _ in range(3))
        light = np.where(holes > generator.integers(-30, 30), before, behind)
        light = light + generator.integers(90, 150, dtype=np.int16) + self._cut(self._grain, size, generator)
        warmth = self._window(size, generator) >> 2
        colours = np.stack([light + warmth, light, light - warmth], axis=-1)
        return Image.fromarray(colours.clip(0, 255).astype(np.uint8))

    def _window(self, size: Size, generator: np.random.Generator) -> np.ndarray:
        return self._cut(self._fields[generator.integers(FIELDS)], size, generator)

    def _cut(self, field: np.ndarray, size: Size, generator: np.random.Generator) -> np.ndarray:
        """Return a random window of that size, randomly mirrored: (height, width)."""
        left, top = (int(generator.integers(FIELD_SIDE - side + 1)) for side in size)
        window = field[top : top + size[1], left : left + size[0]]
        return window[:, ::-1] if generator.random() < 0.5 else window


def _natural_field(generator: np.random.Generator) -> np.ndarray:
    """Brightness about 0, int16: (FIELD_SIDE, FIELD_SIDE)."""
    down, across = np.fft.fftfreq(FIELD_SIDE)[:, None], np.fft.rfftfreq(FIELD_SIDE)[None, :]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf  # removes the constant part
    white = generator.standard_normal((FIELD_SIDE, FIELD_SIDE))
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency, (FIELD_SIDE, FIELD_SIDE))
    return np.asarray(field / field.std() * CONTRAST, np.int16)


def _of_area(side: float, aspect: float) -> Size:
    """About `side`² pixels."""
    return int(side * math.sqrt(aspect)), int(side / math.sqrt(aspect))
