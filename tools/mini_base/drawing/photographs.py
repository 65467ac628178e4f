"""Square crops of the photographs in scikit-image's wheel."""

import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import skimage
from PIL import Image

TRAINING = (
    "astronaut.png",
    "camera.png",
    "coins.png",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "moon.png",
    "brick.png",
    "grass.png",
    "gravel.png",
)
EVALUATION = ("chelsea.png", "coffee.png", "rocket.jpg")
"""Photographs that are not used in any training."""
MOST_REDUCED = 4.0
"""A square is reduced by at most this factor."""


@cache
def photograph(name: str) -> Image.Image:
    """The whole photograph, RGB."""
    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        return file.convert("RGB")


def random_square(names: Sequence[str], side: int, rng: random.Random, reduced: float = MOST_REDUCED) -> Image.Image:
    """`side` × `side` pixels: a square of one of the photographs, reduced by a random factor up to `reduced`."""
    whole = photograph(rng.choice(names))
    taken = round(side * math.exp(rng.uniform(0, math.log(max(1.0, min(reduced, min(whole.size) / side))))))
    left, top = rng.randint(0, whole.width - taken), rng.randint(0, whole.height - taken)
    return whole.resize((side, side), Image.Resampling.LANCZOS, (left, top, left + taken, top + taken))
