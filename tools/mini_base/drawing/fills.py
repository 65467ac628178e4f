"""Fills of an area: a plain colour, a pattern of two, a gradient or a texture."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from tools.mini_base.drawing.colours import Colour


@dataclass(frozen=True)
class Fill:
    """A way to fill an area. `pitch`: a period of the pattern as a share of the image's side; `angle` in radians;
    `phase`: of the pattern, in periods; `seed`: of random textures; `x`, `y`: the middle of the area as shares of the
    side, and `reach`: its extent from there, for fills with a middle or from edge to edge."""

    pattern: str
    first: Colour
    second: Colour = (0, 0, 0)
    pitch: float = 0.125
    angle: float = 0.0
    phase: float = 0.0
    seed: int = 0
    x: float = 0.5
    y: float = 0.5
    reach: float = 0.45


def plain(colour: Colour) -> Fill:
    """Only the colour."""
    return Fill("plain", colour)


def random_fill(pattern: str, first: Colour, second: Colour, rng: random.Random) -> Fill:
    """The pattern with a random pitch, angle and phase, coarse enough to be visible at 64 pixels."""
    return Fill(
        pattern, first, second, rng.uniform(0.1, 0.2), rng.uniform(0, math.pi), rng.random(), rng.getrandbits(32)
    )


def paint(fill: Fill, side: int) -> Image.Image:
    """RGB, `side` × `side` pixels."""
    if fill.pattern == "plain":
        return Image.new("RGB", (side, side), fill.first)
    share = PATTERNS[fill.pattern](fill, side).astype(np.float32)[..., None]
    first, second = (np.array(colour, dtype=np.float32) for colour in (fill.first, fill.second))
    return Image.fromarray((first + (second - first) * share + 0.5).astype(np.uint8))


@cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Across and down, each (side, side), 0 to 1."""
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    across, down = np.meshgrid(steps, steps)
    return across, down


def _from_middle(fill: Fill, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Across and down, each (side, side), from the middle of the area in shares of the side."""
    across, down = _grid(side)
    return across - np.float32(fill.x), down - np.float32(fill.y)


def _turned(fill: Fill, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across the pattern, in units of the period."""
    across, down = _from_middle(fill, side)
    cosine, sine = math.cos(fill.angle), math.sin(fill.angle)
    along = (across * cosine + down * sine) / fill.pitch + fill.phase
    beside = (down * cosine - across * sine) / fill.pitch + fill.phase
    return along, beside


def _striped(fill: Fill, side: int) -> np.ndarray:
    along, _ = _turned(fill, side)
    return along % 1 < 0.45


def _dotted(fill: Fill, side: int) -> np.ndarray:
    along, beside = _turned(fill, side)
    return np.hypot(along % 1 - 0.5, beside % 1 - 0.5) < 0.31


def _checkered(fill: Fill, side: int) -> np.ndarray:
    along, beside = _turned(fill, side)
    return (np.floor(along) + np.floor(beside)) % 2 == 0


def _wavy(fill: Fill, side: int) -> np.ndarray:
    along, beside = _turned(fill, side)
    return (along + 0.22 * np.sin(2 * math.pi * beside)) % 1 < 0.45


def _ringed(fill: Fill, side: int) -> np.ndarray:
    across, down = _from_middle(fill, side)
    return (np.hypot(across, down) / fill.pitch + fill.phase) % 1 < 0.45


def _shaded(fill: Fill, side: int) -> np.ndarray:
    across, down = _from_middle(fill, side)
    along = across * math.cos(fill.angle) + down * math.sin(fill.angle)
    return np.clip(along / (2 * fill.reach) + 0.5, 0, 1)


def _glowing(fill: Fill, side: int) -> np.ndarray:
    across, down = _from_middle(fill, side)
    x, y = 0.4 * fill.reach * math.cos(fill.angle), 0.4 * fill.reach * math.sin(fill.angle)
    return np.clip(np.hypot(across - x, down - y) / (1.3 * fill.reach), 0, 1)


def _mottled(fill: Fill, side: int) -> np.ndarray:
    return np.clip(0.5 + 0.35 * smooth_noise(fill, side), 0, 1)


def _spotted(fill: Fill, side: int) -> np.ndarray:
    return smooth_noise(fill, side) > 0.45


def smooth_noise(fill: Fill, side: int) -> np.ndarray:
    """Noise of about unit variance that changes over half a pitch, from the fill's seed: (side, side)."""
    cells = max(4, round(2 / fill.pitch))
    values = np.random.default_rng(fill.seed).standard_normal((cells, cells)).astype(np.float32)
    picture = Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture) * 1.3


PATTERNS: dict[str, Callable[[Fill, int], np.ndarray]] = {
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "wavy": _wavy,
    "ringed": _ringed,
    "spotted": _spotted,
    "shaded": _shaded,
    "glowing": _glowing,
    "mottled": _mottled,
}
"""Functions that return the share of the second colour, (side, side)."""
