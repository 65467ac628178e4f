"""Shapes as closed lines within a circle of radius 1, and a sheet to draw them on."""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from tools.mini_base.drawing.colours import Colour
from tools.mini_base.drawing.fills import Fill, paint

Point = tuple[float, float]
Loop = tuple[Point, ...]
OVERSAMPLING = 3


@dataclass(frozen=True)
class Outline:
    """Closed lines: the shape is the area inside `solid` and outside `holes`. y is positive downwards."""

    solid: tuple[Loop, ...]
    holes: tuple[Loop, ...] = ()


@dataclass(frozen=True)
class Place:
    """Position of a shape: centre and radius as shares of the side, angle in radians, stretch of the width."""

    x: float
    y: float
    radius: float
    angle: float = 0.0
    stretch: float = 1.0

    def inside(self, x: float, y: float, radius: float, angle: float = 0.0, stretch: float = 1.0) -> "Place":
        """A place given in this one's coordinates, in which its circle has radius 1."""
        across, down = self.point((x, y))
        return Place(across, down, self.radius * radius, self.angle + angle, stretch)

    def point(self, point: Point) -> Point:
        """From this place's coordinates to shares of the side."""
        across, down = point[0] * self.radius * self.stretch, point[1] * self.radius
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return self.x + across * cosine - down * sine, self.y + across * sine + down * cosine


@dataclass(frozen=True)
class Stroke:
    """A line around a shape; `width` as a share of the side."""

    colour: Colour
    width: float = 0.02


class Sheet:
    """An image while it is drawn, oversampled. `side`: of the finished image, in pixels."""

    def __init__(self, side: int, background: Fill) -> None:
        self.side, self.big = side, side * OVERSAMPLING
        self.image = paint(background, self.big)

    def put(self, outline: Outline, place: Place, fill: Fill, stroke: Stroke | None = None) -> None:
        """Draw a shape over the existing content. Its pattern moves and rotates with it."""
        fill = replace(fill, x=place.x, y=place.y, reach=place.radius, angle=fill.angle + place.angle)
        solid, holes = ([self._pixels(loop, place) for loop in loops] for loops in (outline.solid, outline.holes))
        if fill.pattern == "plain" and not holes:
            canvas = ImageDraw.Draw(self.image)
            for loop in solid:
                canvas.polygon(loop, fill=fill.first)
        else:
            self.image.paste(paint(fill, self.big), (0, 0), self._mask(solid, holes))
        if stroke is not None and len(solid) == 1:
            for loop in (*solid, *holes):
                self._line([*loop, loop[0], loop[1]], stroke)

    def line(self, points: Iterable[Point], stroke: Stroke) -> None:
        """A line with round ends through points given as shares of the side."""
        pixels = [(x * self.big, y * self.big) for x, y in points]
        self._line(pixels, stroke)
        canvas, radius = ImageDraw.Draw(self.image), stroke.width * self.big / 2
        for x, y in (pixels[0], pixels[-1]):
            canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=stroke.colour)

    def finished(self) -> Image.Image:
        """The finished image, `side` × `side` pixels."""
        return self.image.resize((self.side, self.side), Image.Resampling.LANCZOS)

    def _line(self, pixels: list[Point], stroke: Stroke) -> None:
        width = max(1, round(stroke.width * self.big))
        ImageDraw.Draw(self.image).line(pixels, fill=stroke.colour, width=width, joint="curve")

    def _mask(self, solid: list[list[Point]], holes: list[list[Point]]) -> Image.Image:
        mask = Image.new("L", self.image.size, 0)
        canvas = ImageDraw.Draw(mask)
        for loops, value in ((solid, 255), (holes, 0)):
            for loop in loops:
                canvas.polygon(loop, fill=value)
        return mask

    def _pixels(self, loop: Loop, place: Place) -> list[Point]:
        return [(x * self.big, y * self.big) for x, y in map(place.point, loop)]


def polar(radius: Callable[[float], float], points: int = 48) -> Outline:
    """A line around the centre; `radius` is a function of the angle, which starts at the top and runs clockwise."""
    loop = []
    for index in range(points):
        angle = 2 * math.pi * index / points
        distance = radius(angle)
        loop.append((distance * math.sin(angle), -distance * math.cos(angle)))
    return Outline((tuple(loop),))


def polygon(corners: int, inner: float | None = None) -> Outline:
    """A regular polygon, or with `inner` a star with notches at this radius."""
    count = corners * 2 if inner else corners
    return polar(lambda angle: inner if inner and round(angle / (2 * math.pi) * count) % 2 else 1.0, count)


def _disc(x: float, y: float, radius: float) -> Loop:
    return tuple((x + radius * dx, y + radius * dy) for dx, dy in polar(lambda _: 1.0, 32).solid[0])


def _heart() -> Outline:
    loop = []
    for index in range(48):
        angle = 2 * math.pi * index / 48
        across = 16 * math.sin(angle) ** 3
        up = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        loop.append((across / 17, -(up + 2.5) / 16))
    return Outline((tuple(loop),))


def _moon(inner: float = 0.8, aside: float = 0.5) -> Outline:
    """A disc of radius 1 without the disc of radius `inner` whose centre is `aside` to its right."""
    across = (1 - inner**2 + aside**2) / (2 * aside)
    tip = math.acos(across)
    back = math.atan2(math.sin(tip), across - aside)
    outer = [tip + (2 * math.pi - 2 * tip) * index / 29 for index in range(30)]
    hollow = [2 * math.pi - back - (2 * math.pi - 2 * back) * index / 29 for index in range(30)]
    loop = [(math.cos(angle), math.sin(angle)) for angle in outer]
    loop += [(aside + inner * math.cos(angle), inner * math.sin(angle)) for angle in hollow]
    return Outline((tuple((x + 0.2, y) for x, y in loop),))


def _cross(arm: float = 0.36) -> Outline:
    corners = ((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1), (-arm, 1), (-arm, arm),
               (-1, arm), (-1, -arm), (-arm, -arm))  # fmt: skip
    return Outline((corners,))


SQUARE = Outline((((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),))
CIRCLE = polar(lambda _: 1.0)
SHAPES: dict[str, Outline] = {
    "circle": CIRCLE,
    "square": SQUARE,
    "triangle": polygon(3),
    "star": polygon(5, inner=0.42),
    "heart": _heart(),
    "cross": _cross(),
    "ring": Outline((_disc(0, 0, 1),), (_disc(0, 0, 0.5),)),
    "moon": _moon(),
    "diamond": Outline((((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),)),
    "flower": polar(lambda angle: 0.62 + 0.38 * abs(math.cos(2.5 * angle)), 80),
    "drop": Outline((((0, -1.05), *_disc(0, 0.35, 0.66)[4:29]),)),
    "arrow": Outline((((0, -1), (0.85, -0.1), (0.34, -0.1), (0.34, 1), (-0.34, 1), (-0.34, -0.1), (-0.85, -0.1)),)),
}


def random_outline(rng: random.Random) -> Outline:
    """A named shape, a random polygon, star or rosette, or a blob."""
    kind = rng.randrange(6)
    if kind <= 1:
        return rng.choice(tuple(SHAPES.values()))
    if kind == 2:
        return polygon(rng.randint(3, 8))
    if kind == 3:
        return polygon(rng.randint(4, 9), rng.uniform(0.35, 0.8))
    waves = [(count, rng.uniform(0, 0.3 / count**0.7), rng.uniform(0, 2 * math.pi)) for count in range(2, 7)]
    return polar(lambda angle: 0.8 + sum(size * math.cos(count * angle + phase) for count, size, phase in waves))
