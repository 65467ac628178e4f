"""Styles: a palette, a stroke, a texture and a rendering, in which any shape on any background can be drawn."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.concepts.kinds.figures import DARK, WHITE
from tools.mini_base.drawing.colours import Colour, distinct_colour
from tools.mini_base.drawing.fills import PATTERNS, Fill, plain, random_fill
from tools.mini_base.drawing.outlines import SHAPES, Place, Sheet, Stroke

RENDERINGS = ("flat", "mosaic", "soft", "shadow", "double line", "scattered")
TEXTURES = ("none", "striped", "dotted", "mottled", "wavy", "ringed")
MOSAIC_CELLS = 16


@dataclass(frozen=True)
class StylePlan:
    """The description of a style. `texture`: the pattern of every shape, in the palette's colours; `rendering`: one of
    RENDERINGS."""

    first: Colour
    second: Colour
    line: Stroke
    texture: str
    rendering: str
    pitch: float
    angle: float

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of the drawing, from which a background must be distinguishable."""
        outer = self.second if self.texture != "none" or self.rendering in ("double line", "scattered") else self.first
        return (self.first, outer, self.line.colour)


def plan_style(rng: random.Random) -> StylePlan:
    """Draw a random plan."""
    first = distinct_colour((), rng)
    second = distinct_colour((first,), rng)
    line = Stroke(distinct_colour((first,), rng, 45), rng.uniform(0.025, 0.05))
    fill = random_fill("striped", first, second, rng)
    return StylePlan(first, second, line, rng.choice(TEXTURES), rng.choice(RENDERINGS), fill.pitch, fill.angle)


def draw_in_style(
    plan: StylePlan, shape: str, ground: Colour, place: Place, side: int, rng: random.Random
) -> Image.Image:
    """Draw one of SHAPES in the style, `side` × `side` pixels."""
    sheet = Sheet(side, plain(ground))
    fill = plain(plan.first)
    if plan.texture in PATTERNS:
        fill = Fill(plan.texture, plan.first, plan.second, plan.pitch, plan.angle, rng.random(), rng.getrandbits(32))
    outline, dark = SHAPES[shape], plain(WHITE if max(ground) < 90 else DARK)
    if plan.rendering == "shadow":
        sheet.put(outline, Place(place.x + 0.05, place.y + 0.05, place.radius, place.angle), dark)
    if plan.rendering == "double line":
        sheet.put(outline, place.inside(0, 0, 1.22), plain(plan.second), Stroke(plan.line.colour, 0.02))
    if plan.rendering == "scattered":
        for _ in range(7):
            x, y, size = rng.uniform(-1.2, 1.2), rng.uniform(-1.2, 1.2), rng.uniform(0.1, 0.16)
            sheet.put(outline, place.inside(x, y, size), plain(plan.second))
    sheet.put(outline, place, fill, plan.line)
    return _rendered(sheet.finished(), plan.rendering)


def _rendered(picture: Image.Image, rendering: str) -> Image.Image:
    if rendering == "mosaic":
        cells = picture.resize((MOSAIC_CELLS, MOSAIC_CELLS), Image.Resampling.BOX)
        return cells.resize(picture.size, Image.Resampling.NEAREST)
    if rendering == "soft":
        blurred = picture.filter(ImageFilter.GaussianBlur(picture.width / 32))
        light = np.asarray(blurred, dtype=np.float32) * 0.6 + np.asarray(picture, dtype=np.float32) * 0.4
        return Image.fromarray(light.clip(0, 255).astype(np.uint8))
    return picture
