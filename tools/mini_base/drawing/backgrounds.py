"""Backgrounds: scenes in which things are placed. Each function starts a sheet."""

import random
from collections.abc import Callable

from tools.mini_base.drawing.colours import Colour
from tools.mini_base.drawing.fills import Fill, plain
from tools.mini_base.drawing.outlines import CIRCLE, Outline, Place, Sheet, polygon

BOX = Outline((((0, 0), (1, 0), (1, 1), (0, 1)),))
DOWNWARDS = 1.5708


def _near(colour: Colour, rng: random.Random, spread: int = 12) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-spread, spread))) for value in colour)
    return red, green, blue


def _sky(side: int, above: Colour, below: Colour, rng: random.Random) -> Sheet:
    return Sheet(side, Fill("shaded", _near(above, rng), _near(below, rng), angle=DOWNWARDS))


def _box(sheet: Sheet, left: float, top: float, right: float, bottom: float, fill: Fill) -> None:
    """A box, in shares of the side."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    sheet.put(Outline((corners,)), Place(0, 0, 1), fill)


def _disc(sheet: Sheet, x: float, y: float, radius: float, colour: Colour) -> None:
    sheet.put(CIRCLE, Place(x, y, radius), plain(colour))


def _beach(side: int, rng: random.Random) -> Sheet:
    sheet, sea = _sky(side, (110, 185, 245), (215, 235, 250), rng), rng.uniform(0.38, 0.46)
    sand = sea + rng.uniform(0.2, 0.28)
    _box(sheet, 0, sea, 1, 1, plain(_near((30, 120, 190), rng)))
    _box(sheet, 0, sand - 0.02, 1, 1, plain((240, 248, 250)))
    _box(sheet, 0, sand, 1, 1, plain(_near((235, 210, 150), rng)))
    _disc(sheet, rng.choice((0.14, 0.86)), 0.13, 0.08, _near((255, 225, 90), rng))
    return sheet


def _meadow(side: int, rng: random.Random) -> Sheet:
    sheet, ground = _sky(side, (130, 200, 250), (210, 235, 250), rng), rng.uniform(0.5, 0.62)
    _box(sheet, 0, ground, 1, 1, plain(_near((85, 175, 70), rng)))
    for _ in range(14):
        x, y = rng.random(), rng.uniform(ground + 0.05, 1)
        _disc(sheet, x, y, 0.02, rng.choice(((250, 225, 80), (245, 245, 245), (240, 130, 160))))
    return sheet


def _snow(side: int, rng: random.Random) -> Sheet:
    sheet, ground = _sky(side, (150, 165, 190), (205, 215, 228), rng), rng.uniform(0.55, 0.65)
    for x in (rng.uniform(0.05, 0.2), rng.uniform(0.8, 0.95)):
        sheet.put(polygon(3), Place(x, ground - 0.06, 0.17), plain(_near((40, 85, 75), rng)))
    _box(sheet, 0, ground, 1, 1, plain(_near((240, 244, 250), rng, 5)))
    for _ in range(18):
        _disc(sheet, rng.random(), rng.random() * ground, 0.013, (255, 255, 255))
    return sheet


def _desert(side: int, rng: random.Random) -> Sheet:
    sheet, ground = _sky(side, (245, 170, 95), (250, 215, 150), rng), rng.uniform(0.52, 0.62)
    _disc(sheet, rng.uniform(0.15, 0.85), ground - 0.12, 0.11, _near((250, 240, 190), rng))
    _box(sheet, 0, ground, 1, 1, plain(_near((205, 135, 70), rng)))
    for x, radius in ((rng.uniform(0, 0.4), 0.3), (rng.uniform(0.6, 1), 0.36)):
        sheet.put(CIRCLE, Place(x, ground + 0.27, radius, 0, 1.5), plain(_near((190, 115, 60), rng, 6)))
    return sheet


def _city(side: int, rng: random.Random) -> Sheet:
    sheet, left = _sky(side, (120, 120, 160), (235, 180, 160), rng), -rng.uniform(0, 0.1)
    ground = rng.uniform(0.76, 0.82)
    while left < 1:
        width, top = rng.uniform(0.16, 0.24), rng.uniform(0.14, 0.48)
        shade = rng.randint(60, 100)
        _box(sheet, left, top, left + width, ground, plain((shade, shade, shade + 15)))
        for row in range(int((ground - top) / 0.1)):
            for column in (0.18, 0.6):
                x, y = left + width * column, top + 0.04 + row * 0.1
                _box(sheet, x, y, x + width * 0.24, y + 0.05, plain((250, 225, 130)))
        left += width + 0.01
    _box(sheet, 0, ground, 1, 1, plain(_near((75, 75, 78), rng, 6)))
    return sheet


def _forest(side: int, rng: random.Random) -> Sheet:
    sheet, ground = _sky(side, (60, 110, 80), (120, 165, 110), rng), rng.uniform(0.7, 0.78)
    for index in range(6):
        x = (index + rng.uniform(0.2, 0.8)) / 6
        _box(sheet, x - 0.025, 0.3, x + 0.025, ground + 0.03, plain(_near((95, 65, 40), rng, 8)))
        for height in (0.42, 0.24):
            sheet.put(polygon(3), Place(x, height, 0.17), plain(_near((30, 85, 50), rng, 10)))
    _box(sheet, 0, ground, 1, 1, plain(_near((70, 75, 40), rng, 8)))
    return sheet


def _room(side: int, rng: random.Random) -> Sheet:
    sheet, floor = Sheet(side, plain(_near((228, 214, 196), rng))), rng.uniform(0.7, 0.78)
    left = rng.choice((0.06, 0.66))
    _box(sheet, left, 0.1, left + 0.28, 0.42, plain((250, 250, 250)))
    _box(sheet, left + 0.03, 0.13, left + 0.25, 0.39, plain(_near((150, 200, 240), rng)))
    _box(sheet, left + 0.125, 0.13, left + 0.155, 0.39, plain((250, 250, 250)))
    _box(sheet, 0, floor, 1, 1, plain(_near((150, 100, 65), rng)))
    _box(sheet, 0, floor - 0.03, 1, floor, plain((245, 242, 236)))
    return sheet


def _night(side: int, rng: random.Random) -> Sheet:
    sheet = _sky(side, (12, 14, 45), (35, 40, 95), rng)
    for _ in range(26):
        _disc(sheet, rng.random(), rng.random() * 0.85, rng.uniform(0.008, 0.018), (250, 245, 215))
    ground = rng.uniform(0.82, 0.88)
    _box(sheet, 0, ground, 1, 1, plain(_near((18, 40, 32), rng, 6)))
    return sheet


SCENERY: dict[str, Callable[[int, random.Random], Sheet]] = {
    "at the beach": _beach,
    "in a meadow": _meadow,
    "in the snow": _snow,
    "in the desert": _desert,
    "in the city": _city,
    "in the forest": _forest,
    "in a room": _room,
    "under the stars": _night,
}
"""Functions by their phrase in a caption."""
TONES: dict[str, tuple[str, ...]] = {
    "at the beach": ("light blue", "beige", "blue"),
    "in a meadow": ("light blue", "green"),
    "in the snow": ("white", "grey"),
    "in the desert": ("orange", "brown", "beige"),
    "in the city": ("grey", "pink"),
    "in the forest": ("dark green", "green"),
    "in a room": ("beige", "brown"),
    "under the stars": ("dark blue", "black"),
}
"""Colour words of each scene. Things in it have other colours."""
