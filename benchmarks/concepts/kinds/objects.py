"""Everyday objects with random patterns and colours: the same object, slightly varied in each image."""

import random
from dataclasses import dataclass

from benchmarks.concepts.kinds.figures import DARK, PATTERNS, WHITE
from tools.mini_base.drawing.colours import Colour, distinct_colour
from tools.mini_base.drawing.fills import Fill, plain, random_fill
from tools.mini_base.drawing.outlines import CIRCLE, Loop, Outline, Place, Sheet, Stroke, polar, polygon


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return Outline((((left, top), (right, top), (right, bottom), (left, bottom)),))


def _lines(*corners: tuple[float, float]) -> Outline:
    return Outline((corners,))


def _disc(x: float, y: float, radius: float, width: float = 1.0) -> Outline:
    loop: Loop = tuple((x + radius * width * dx, y + radius * dy) for dx, dy in polar(lambda _: 1.0, 36).solid[0])
    return Outline((loop,))


def _handle(x: float, y: float, outer: float, inner: float) -> Outline:
    return Outline(_disc(x, y, outer).solid, _disc(x, y, inner).solid)


BODY, SECOND, ACCENT = 0, 1, 2
Piece = tuple[Outline, int]
"""Areas with the number of their fill, in the order of drawing."""
OBJECTS: dict[str, tuple[Piece, ...]] = {
    "mug": ((_handle(0.62, 0, 0.42, 0.24), SECOND), (_box(-0.75, -0.7, 0.6, 0.8), BODY),
            (_box(-0.75, -0.78, 0.6, -0.55), ACCENT)),
    "house": ((_box(0.3, -0.85, 0.55, -0.2), ACCENT), (_box(-0.7, -0.15, 0.7, 0.9), BODY),
              (_lines((-0.95, -0.1), (0, -0.95), (0.95, -0.1)), SECOND), (_box(-0.15, 0.3, 0.2, 0.9), ACCENT)),
    "car": ((_lines((-0.55, -0.05), (-0.3, -0.55), (0.35, -0.55), (0.6, -0.05)), SECOND),
            (_lines((-1, -0.05), (0.85, -0.1), (1, 0.15), (1, 0.42), (-1, 0.42)), BODY),
            (_disc(-0.52, 0.45, 0.26), ACCENT), (_disc(0.52, 0.45, 0.26), ACCENT)),
    "boat": ((_box(-0.05, -0.95, 0.05, 0.4), ACCENT), (_lines((0.1, -0.9), (0.85, 0.2), (0.1, 0.2)), BODY),
             (_lines((-0.12, -0.6), (-0.12, 0.2), (-0.65, 0.2)), SECOND),
             (_lines((-1, 0.35), (1, 0.35), (0.6, 0.85), (-0.6, 0.85)), ACCENT)),
    "lamp": ((_box(-0.08, -0.2, 0.08, 0.8), ACCENT), (_lines((-0.4, -0.9), (0.4, -0.9), (0.8, 0), (-0.8, 0)), BODY),
             (_disc(0, 0.82, 0.16, 3.0), SECOND)),
    "rocket": ((_lines((-0.3, 0.2), (-0.75, 0.9), (0.75, 0.9), (0.3, 0.2)), SECOND),
               (_lines((0, -1), (0.38, -0.4), (0.38, 0.7), (-0.38, 0.7), (-0.38, -0.4)), BODY),
               (_disc(0, -0.2, 0.2), ACCENT)),
    "fish": ((_lines((0.5, 0), (1, -0.55), (1, 0.55)), SECOND),
             (_lines((-0.2, -0.4), (0.2, -0.85), (0.4, -0.3)), SECOND),
             (_disc(-0.15, 0, 0.55, 1.45), BODY), (_disc(-0.6, -0.1, 0.13), ACCENT)),
    "bag": ((_handle(0, -0.4, 0.48, 0.33), SECOND), (_lines((-0.7, -0.4), (0.7, -0.4), (0.9, 0.9), (-0.9, 0.9)), BODY),
            (_box(-0.2, -0.05, 0.2, 0.3), ACCENT)),
    "mushroom": ((_lines((-0.25, -0.1), (0.25, -0.1), (0.38, 0.9), (-0.38, 0.9)), SECOND),
                 (_lines((-0.95, 0.1), (-0.8, -0.45), (-0.35, -0.8), (0.35, -0.8), (0.8, -0.45), (0.95, 0.1)), BODY),
                 (_disc(0, -0.3, 0.2), ACCENT)),
    "kite": ((_lines((0, -1), (0.7, -0.25), (0, 0.75), (-0.7, -0.25)), BODY),
             (_lines((0, -1), (0.7, -0.25), (0, -0.25)), SECOND), (_lines((0, 0.7), (0.22, 1), (-0.22, 1)), ACCENT)),
}  # fmt: skip


@dataclass(frozen=True)
class ObjectPlan:
    """The description of an object: one of OBJECTS, with its fills (BODY, SECOND, ACCENT), line and an optional
    emblem."""

    kind: str
    fills: tuple[Fill, Fill, Fill]
    line: Stroke | None
    emblem: Outline | None
    emblem_colour: Colour

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of its larger parts, from which a background must be distinguishable."""
        body, second, _ = self.fills
        return (body.first, second.first, *(() if body.pattern == "plain" else (body.second,)))


def plan_object(rng: random.Random) -> ObjectPlan:
    """Draw a random plan. The body is always patterned or has an emblem."""
    first = distinct_colour((WHITE, DARK), rng)
    second = distinct_colour((first,), rng)
    accent = distinct_colour((first, second), rng)
    patterned = rng.random() < 0.7
    body = random_fill(rng.choice(PATTERNS), first, accent, rng) if patterned else plain(first)
    emblem = None if patterned else rng.choice((CIRCLE, polygon(3), polygon(4), polygon(5, 0.45)))
    line = Stroke(DARK, rng.uniform(0.014, 0.024)) if rng.random() < 0.5 else None
    return ObjectPlan(rng.choice(tuple(OBJECTS)), (body, plain(second), plain(accent)), line, emblem, accent)


def draw_object(sheet: Sheet, plan: ObjectPlan, place: Place, rng: random.Random) -> None:
    """Draw the object inside `place`, slightly rotated."""
    turned = Place(
        place.x, place.y, place.radius * 0.9, place.angle + rng.uniform(-0.15, 0.15), rng.uniform(0.95, 1.05)
    )
    for outline, slot in OBJECTS[plan.kind]:
        sheet.put(outline, turned, plan.fills[slot], plan.line)
        if slot == BODY and plan.emblem is not None:
            sheet.put(plan.emblem, turned.inside(*_middle(outline), 0.2), plain(plan.emblem_colour))


def _middle(outline: Outline) -> tuple[float, float]:
    across, down = zip(*outline.solid[0], strict=True)
    return (min(across) + max(across)) / 2, (min(down) + max(down)) / 2
