"""Parts that turn a shape into a creature. They are drawn in the shape's coordinates, in which its radius is 1."""

import math
from collections.abc import Callable

from tools.mini_base.drawing.colours import Colour
from tools.mini_base.drawing.fills import plain
from tools.mini_base.drawing.outlines import CIRCLE, Outline, Place, Point, Sheet, Stroke

WHITE, DARK = (248, 248, 248), (22, 22, 26)
EAR = Outline((((-0.6, 0.8), (0, -1), (0.6, 0.8)),))
HAT = Outline((((-1, 0.3), (-0.55, 0.3), (-0.55, -0.7), (0.55, -0.7), (0.55, 0.3), (1, 0.3), (1, 0.55), (-1, 0.55)),))
WING = Outline((((-0.9, -0.75), (0.1, -0.6), (0.9, 0.5), (0.2, 0.25), (0.1, 0.7), (-0.35, 0.35), (-0.6, 0.6)),))


def _mirrored(outline: Outline) -> Outline:
    return Outline(tuple(tuple((-x, y) for x, y in loop) for loop in outline.solid))


def _limb(sheet: Sheet, place: Place, colour: Colour, points: tuple[Point, ...], end: float) -> None:
    """A thick line on either side, with a disc at its end."""
    for way in (-1, 1):
        bent = [place.point((way * x, y)) for x, y in points]
        sheet.line(bent, Stroke(colour, 0.17 * place.radius))
        sheet.put(CIRCLE, place.inside(way * points[-1][0], points[-1][1], end), plain(colour))


def eyes(sheet: Sheet, place: Place, colour: Colour) -> None:
    """Two white eyes that look ahead. `colour` is not used."""
    for x in (-0.27, 0.27):
        sheet.put(CIRCLE, place.inside(x, -0.05, 0.24), plain(WHITE), Stroke(DARK, 0.05 * place.radius))
        sheet.put(CIRCLE, place.inside(x, -0.05, 0.11), plain(DARK))


def mouth(sheet: Sheet, place: Place, colour: Colour) -> None:
    """A dark smile. `colour` is not used."""
    angles = [math.pi * (0.2 + 0.6 * index / 6) for index in range(7)]
    points = [place.point((0.34 * math.cos(angle), 0.14 + 0.3 * math.sin(angle))) for angle in angles]
    sheet.line(points, Stroke(DARK, 0.09 * place.radius))


def legs(sheet: Sheet, place: Place, colour: Colour) -> None:
    """Two legs with feet."""
    _limb(sheet, place, colour, ((0.3, 0.3), (0.34, 1.3), (0.46, 1.34)), 0.15)


def arms(sheet: Sheet, place: Place, colour: Colour) -> None:
    """Two raised arms."""
    _limb(sheet, place, colour, ((0.2, 0.15), (0.95, 0.15), (1.25, -0.3)), 0.15)


def ears(sheet: Sheet, place: Place, colour: Colour) -> None:
    """Two pointed ears."""
    for way in (-1, 1):
        sheet.put(EAR, place.inside(0.52 * way, -0.85, 0.42, 0.45 * way), plain(colour))


def hat(sheet: Sheet, place: Place, colour: Colour) -> None:
    """A hat."""
    sheet.put(HAT, place.inside(0, -0.92, 0.55), plain(colour))


def wings(sheet: Sheet, place: Place, colour: Colour) -> None:
    """Two wings."""
    sheet.put(WING, place.inside(-1.0, -0.15, 0.75), plain(colour))
    sheet.put(_mirrored(WING), place.inside(1.0, -0.15, 0.75), plain(colour))


Part = Callable[[Sheet, Place, Colour], None]
BEHIND: dict[str, Part] = {"wings": wings, "arms": arms, "legs": legs, "ears": ears}
"""Parts that are drawn before the shape itself."""
BEFORE: dict[str, Part] = {"eyes": eyes, "a mouth": mouth, "a hat": hat}
"""Parts that are drawn over the shape."""
PARTS = ("eyes", "a mouth", "arms", "legs", "ears", "wings", "a hat")
