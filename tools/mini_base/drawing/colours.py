"""Names of colours: the nearest colour word for any colour."""

import random
from collections.abc import Sequence
from functools import cache

import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue, each 0 to 255."""

COLOURS: dict[str, Colour] = {
    "red": (215, 40, 40),
    "dark red": (125, 20, 30),
    "pink": (245, 150, 185),
    "orange": (240, 135, 30),
    "brown": (130, 80, 40),
    "beige": (225, 200, 160),
    "yellow": (240, 215, 50),
    "green": (40, 165, 70),
    "light green": (155, 225, 150),
    "dark green": (20, 90, 45),
    "turquoise": (50, 190, 185),
    "blue": (50, 80, 220),
    "light blue": (140, 195, 245),
    "dark blue": (25, 35, 110),
    "purple": (140, 60, 180),
    "light purple": (200, 165, 235),
    "grey": (130, 130, 130),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}
"""A typical colour of each word."""
DISTINCT = 30.0
"""CIELAB distance from which two colours are clearly distinguishable."""
UNAMBIGUOUS = 0.8
"""A colour is named by a word if its distance to it is at most this share of that to the next word."""
FARTHEST = 40.0
FARTHEST_MUTED = {"black": 16.0, "white": 9.0, "grey": 18.0, "beige": 16.0, "brown": 22.0}
"""CIELAB distance from a word's typical colour up to which the word is used; less if a tint changes the word."""

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def lab(colours: Sequence[Colour] | np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours: (N, 3) of 0 to 255 → (N, 3)."""
    values = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    root = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def distance(one: Colour, other: Colour) -> float:
    """CIELAB distance."""
    first, second = lab([one, other])
    return float(np.linalg.norm(first - second))


def name_of(colour: Colour) -> str:
    """The nearest word."""
    return tuple(COLOURS)[int(_distances(np.asarray([colour]))[0].argmin())]


def random_colour(rng: random.Random) -> Colour:
    """A uniformly random colour."""
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def colour_named(name: str, rng: random.Random) -> Colour:
    """Return a random colour that is clearly named by this word of COLOURS."""
    red, green, blue = rng.choice(_called(name))
    return red, green, blue


def distinct_colour(others: Sequence[Colour], rng: random.Random, least: float = DISTINCT) -> Colour:
    """A colour, with equal probability for each word, that is distinguishable from all `others`."""
    while True:
        colour = colour_named(rng.choice(tuple(COLOURS)), rng)
        if all(distance(colour, other) >= least for other in others):
            return colour


def _distances(colours: np.ndarray) -> np.ndarray:
    """(N, 3) → (N, words), CIELAB."""
    words = lab(list(COLOURS.values()))
    return np.asarray(np.linalg.norm(lab(colours)[:, None] - words[None], axis=-1))


@cache
def _called(name: str) -> tuple[Colour, ...]:
    """Return colours on a grid that are named by the word: its typical one, and those clearly nearer to it than to
    others."""
    steps = np.arange(8, 256, 12)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = _distances(grid)
    column = tuple(COLOURS).index(name)
    own = distances[:, column]
    second = np.delete(distances, column, axis=1).min(axis=1)
    clear = grid[(own <= UNAMBIGUOUS * second) & (own <= FARTHEST_MUTED.get(name, FARTHEST))]
    return (COLOURS[name], *((int(red), int(green), int(blue)) for red, green, blue in clear))
