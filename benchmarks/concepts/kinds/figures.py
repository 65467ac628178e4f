"""Figures composed of random parts. A plan describes a figure; each drawing has a different pose."""

import math
import random
from dataclasses import dataclass

from tools.mini_base.drawing.colours import Colour, distinct_colour
from tools.mini_base.drawing.fills import Fill, plain, random_fill
from tools.mini_base.drawing.outlines import CIRCLE, SQUARE, Outline, Place, Sheet, Stroke, polar, polygon

WHITE, DARK = (248, 248, 248), (22, 22, 26)
TRUNKS: dict[str, Outline] = {
    "round": CIRCLE,
    "box": SQUARE,
    "egg": polar(lambda angle: 0.82 - 0.18 * math.cos(angle)),
    "pear": polar(lambda angle: 0.78 - 0.14 * math.cos(angle) + 0.12 * math.cos(2 * angle)),
    "hexagon": polygon(6),
    "shield": Outline((((-0.85, -0.8), (0.85, -0.8), (0.75, 0.2), (0, 1), (-0.75, 0.2)),)),
    "bell": Outline((((-0.4, -0.95), (0.4, -0.95), (0.6, 0), (0.95, 0.85), (-0.95, 0.85), (-0.6, 0)),)),
}
SPIKE = polygon(3)
PATTERNS = ("striped", "dotted", "checkered", "wavy")
EARS = ("none", "round", "pointed", "long", "horns")
TOPS = ("none", "lamp", "crown", "tuft")
TAILS = ("none", "thin", "ball", "spikes")
MARKS = ("none", "belly", "button", "belt")


@dataclass(frozen=True)
class FigurePlan:
    """The description of a figure.

    `stretch`: width of the trunk relative to its height; `head_size`: its radius relative to the trunk's, 0 if the face
    is on the trunk; `limbs`: thickness of arms and legs relative to the trunk's radius; `eyes`: one to three.
    """

    trunk: str
    head: str
    stretch: float
    head_size: float
    skin: Fill
    head_skin: Fill
    second: Colour
    accent: Colour
    line: Stroke | None
    ears: str
    top: str
    tail: str
    mark: str
    arms: bool
    legs: int
    limbs: float
    eyes: int
    eye_size: float
    mouth: str

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of its larger parts, from which a background must be distinguishable."""
        return (self.skin.first, self.head_skin.first, self.second)


def plan_figure(rng: random.Random) -> FigurePlan:
    """Draw a random plan."""
    first = distinct_colour((WHITE, DARK), rng)
    second = distinct_colour((first,), rng)
    skin = plain(first) if rng.random() < 0.55 else random_fill(rng.choice(PATTERNS), first, second, rng)
    accent = distinct_colour((first, second), rng)
    return FigurePlan(
        trunk=rng.choice(tuple(TRUNKS)),
        head=rng.choice(tuple(TRUNKS)),
        stretch=rng.uniform(0.7, 1.1),
        head_size=rng.choice((0.0, rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0))),
        skin=skin,
        head_skin=plain(rng.choice((first, second))),
        second=second,
        accent=accent,
        line=Stroke(DARK, rng.uniform(0.014, 0.024)) if rng.random() < 0.4 else None,
        ears=rng.choice(EARS),
        top=rng.choice(TOPS),
        tail=rng.choice(TAILS),
        mark=rng.choice(MARKS),
        arms=rng.random() < 0.75,
        legs=rng.choice((0, 2, 2, 3)),
        limbs=rng.uniform(0.24, 0.34),
        eyes=rng.choice((1, 2, 2, 2, 3)),
        eye_size=rng.uniform(0.24, 0.34),
        mouth=rng.choice(("none", "smile", "flat", "open")),
    )


def draw_figure(sheet: Sheet, plan: FigurePlan, place: Place, rng: random.Random) -> None:
    """Draw the figure inside `place`, in a pose drawn from `rng`."""
    trunk = place.inside(0, 0.28 if plan.head_size else 0.1, 0.5 if plan.head_size else 0.62, 0, plan.stretch)
    head = trunk
    if plan.head_size:
        head = trunk.inside(rng.uniform(-0.08, 0.08), -0.75 - plan.head_size * 0.7, plan.head_size)
    _draw_tail(sheet, plan, trunk)
    _draw_limbs(sheet, plan, trunk, rng)
    if plan.head_size:
        sheet.put(TRUNKS[plan.trunk], trunk, plan.skin, plan.line)
        _draw_mark(sheet, plan, trunk)
        _draw_ears(sheet, plan, head)
        sheet.put(TRUNKS[plan.head], head, plan.head_skin, plan.line)
    else:
        _draw_ears(sheet, plan, head)
        sheet.put(TRUNKS[plan.trunk], trunk, plan.skin, plan.line)
    _draw_face(sheet, plan, head)
    _draw_top(sheet, plan, head)


def _draw_limbs(sheet: Sheet, plan: FigurePlan, trunk: Place, rng: random.Random) -> None:
    stroke = Stroke(plan.second, plan.limbs * trunk.radius)
    if plan.arms:
        for way in (-1, 1):
            lift = rng.uniform(-0.7, 0.5)
            elbow, hand = (way * 1.15, 0.05), (way * 1.5, lift)
            sheet.line([trunk.point((way * 0.5, -0.15)), trunk.point(elbow), trunk.point(hand)], stroke)
            sheet.put(CIRCLE, trunk.inside(*hand, plan.limbs * 0.75), plain(plan.accent))
    for index in range(plan.legs):
        x = 0.0 if plan.legs == 1 else (index / (plan.legs - 1) - 0.5) * 1.1
        foot = (x * 1.15 + rng.uniform(-0.08, 0.08), 1.35)
        sheet.line([trunk.point((x, 0.4)), trunk.point(foot)], stroke)
        sheet.put(CIRCLE, trunk.inside(*foot, plan.limbs * 0.8, 0, 1.5), plain(plan.accent))


def _draw_tail(sheet: Sheet, plan: FigurePlan, trunk: Place) -> None:
    if plan.tail == "none":
        return
    points = [(0.5, 0.6), (1.2, 0.75), (1.5, 0.35)]
    sheet.line([trunk.point(point) for point in points], Stroke(plan.second, 0.16 * trunk.radius))
    if plan.tail == "ball":
        sheet.put(CIRCLE, trunk.inside(1.5, 0.3, 0.24), plain(plan.accent))
    elif plan.tail == "spikes":
        for x, y in points[1:]:
            sheet.put(SPIKE, trunk.inside(x, y - 0.12, 0.26), plain(plan.accent))


def _draw_mark(sheet: Sheet, plan: FigurePlan, trunk: Place) -> None:
    if plan.mark == "belly":
        sheet.put(CIRCLE, trunk.inside(0, 0.15, 0.48), plain(plan.second))
    elif plan.mark == "button":
        for y in (-0.2, 0.25):
            sheet.put(CIRCLE, trunk.inside(0, y, 0.15), plain(plan.accent))
    elif plan.mark == "belt":
        sheet.line([trunk.point((-0.7, 0.35)), trunk.point((0.7, 0.35))], Stroke(plan.accent, 0.2 * trunk.radius))


def _draw_ears(sheet: Sheet, plan: FigurePlan, head: Place) -> None:
    for way in (-1, 1):
        if plan.ears == "round":
            sheet.put(CIRCLE, head.inside(0.7 * way, -0.65, 0.38), plan.head_skin, plan.line)
        elif plan.ears == "pointed":
            sheet.put(SPIKE, head.inside(0.6 * way, -0.75, 0.5, 0.5 * way), plan.head_skin, plan.line)
        elif plan.ears == "long":
            sheet.put(CIRCLE, head.inside(0.42 * way, -1.05, 0.55, 0.2 * way, 0.4), plan.head_skin, plan.line)
        elif plan.ears == "horns":
            points = [(0.5 * way, -0.6), (0.85 * way, -0.95), (0.8 * way, -1.3)]
            sheet.line([head.point(point) for point in points], Stroke(plan.accent, 0.18 * head.radius))


def _draw_face(sheet: Sheet, plan: FigurePlan, head: Place) -> None:
    size = plan.eye_size * (1.5 if plan.eyes == 1 else 1.0)
    for index in range(plan.eyes):
        x = (index - (plan.eyes - 1) / 2) * (0.72 if plan.eyes == 2 else 0.55)
        sheet.put(CIRCLE, head.inside(x, -0.15, size), plain(WHITE), Stroke(DARK, 0.04 * head.radius))
        sheet.put(CIRCLE, head.inside(x, -0.15, size * 0.5), plain(DARK))
    if plan.mouth == "smile":
        bow = [(0.36 * math.cos(angle), 0.28 + 0.24 * math.sin(angle)) for angle in (0.2, 0.9, 1.57, 2.24, 2.94)]
        sheet.line([head.point(point) for point in bow], Stroke(DARK, 0.1 * head.radius))
    elif plan.mouth == "flat":
        sheet.line([head.point((-0.35, 0.42)), head.point((0.35, 0.42))], Stroke(DARK, 0.1 * head.radius))
    elif plan.mouth == "open":
        sheet.put(CIRCLE, head.inside(0, 0.42, 0.2), plain((150, 30, 45)))


def _draw_top(sheet: Sheet, plan: FigurePlan, head: Place) -> None:
    if plan.top == "lamp":
        sheet.line([head.point((0, -0.8)), head.point((0, -1.25))], Stroke(DARK, 0.1 * head.radius))
        sheet.put(CIRCLE, head.inside(0, -1.32, 0.22), plain(plan.accent))
    elif plan.top == "crown":
        crown = ((-0.5, -0.7), (-0.55, -1.25), (-0.25, -1), (0, -1.35), (0.25, -1), (0.55, -1.25), (0.5, -0.7))
        sheet.put(Outline((crown,)), head, plain(plan.accent), plan.line)
    elif plan.top == "tuft":
        for x in (-0.25, 0, 0.25):
            sheet.line(
                [head.point((x * 0.5, -0.8)), head.point((x * 1.6, -1.25))], Stroke(plan.accent, 0.11 * head.radius)
            )
