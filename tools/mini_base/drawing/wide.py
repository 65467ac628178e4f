"""Images of many kinds for the VAE, which must restore all kinds of training images. They have no captions."""

import math
import random
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
from PIL import Image

from tools.mini_base.drawing import photographs
from tools.mini_base.drawing.colours import Colour, distinct_colour, random_colour
from tools.mini_base.drawing.fills import PATTERNS, Fill, paint, plain, random_fill
from tools.mini_base.drawing.outlines import CIRCLE, Place, Sheet, Stroke, random_outline

PATTERNED = 0.4
OUTLINED = 0.4


def any_fill(rng: random.Random, patterned: float = PATTERNED) -> Fill:
    """Random colours in a random pattern."""
    first = random_colour(rng) if rng.random() < 0.5 else distinct_colour((), rng)
    if rng.random() >= patterned:
        return plain(first)
    second = random_colour(rng) if rng.random() < 0.5 else distinct_colour((first,), rng)
    return random_fill(rng.choice(tuple(PATTERNS)), first, second, rng)


def any_stroke(rng: random.Random, share: float = OUTLINED) -> Stroke | None:
    """A dark, light or coloured line, or none."""
    if rng.random() >= share:
        return None
    colour: Colour = rng.choice(((20, 20, 20), (20, 20, 20), (245, 245, 245), random_colour(rng)))
    return Stroke(colour, rng.uniform(0.012, 0.035))


def composition(side: int, rng: random.Random) -> Image.Image:
    """A few large or many small shapes at random, overlapping positions, and lines."""
    sheet = Sheet(side, any_fill(rng))
    count = rng.choice((1, 2, 3, 4, 6, 9))
    for _ in range(count):
        radius = rng.uniform(0.1, 0.45) / count**0.35
        place = Place(
            rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), radius, rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.3)
        )
        sheet.put(random_outline(rng), place, any_fill(rng), any_stroke(rng))
    for _ in range(rng.choice((0, 0, 1, 3))):
        _squiggle(sheet, rng)
    return sheet.finished()


def drawing_in_lines(side: int, rng: random.Random) -> Image.Image:
    """Shapes as lines only, on a plain background, as drawn with a pen or a brush."""
    ground = random_colour(rng) if rng.random() < 0.3 else rng.choice(((250, 250, 248), (240, 230, 210), (25, 25, 30)))
    sheet = Sheet(side, plain(ground))
    for _ in range(rng.randint(1, 4)):
        colour = distinct_colour((ground,), rng, 45)
        place = Place(rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75), rng.uniform(0.12, 0.4), rng.uniform(0, 6.28))
        inside = plain(ground) if rng.random() < 0.6 else any_fill(rng)
        sheet.put(random_outline(rng), place, inside, Stroke(colour, rng.uniform(0.02, 0.05)))
    for _ in range(rng.randint(0, 3)):
        _squiggle(sheet, rng)
    return sheet.finished()


def assembled_figure(side: int, rng: random.Random, ground: Fill | None = None) -> Image.Image:
    """A figure with a body, and possibly a head, limbs and eyes, mirror-symmetric like animals; all have different
    plans. `ground`: random by default."""
    sheet = Sheet(side, ground or any_fill(rng))
    x, y = rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.62)
    body = Place(x, y, rng.uniform(0.16, 0.3), rng.uniform(-0.1, 0.1), rng.uniform(0.6, 1.2))
    fills = [any_fill(rng, 0.35) for _ in range(3)]
    stroke = any_stroke(rng)
    for _ in range(rng.randint(1, 4)):
        _limbs(sheet, body, rng.choice(fills), stroke, rng)
    for _ in range(rng.randint(0, 2)):
        _thin_limbs(sheet, body, rng)
    sheet.put(random_outline(rng), body, fills[0], stroke)
    head = body
    if rng.random() < 0.6:
        head = body.inside(0, -rng.uniform(0.9, 1.4), rng.uniform(0.5, 0.9))
        for _ in range(rng.randint(0, 2)):
            _limbs(sheet, head, rng.choice(fills), stroke, rng)
        sheet.put(random_outline(rng), head, rng.choice(fills[:2]), stroke)
    _eyes(sheet, head, rng)
    if rng.random() < 0.6:
        _mouth(sheet, head, rng)
    return sheet.finished()


def texture(side: int, rng: random.Random) -> Image.Image:
    """A pattern over the whole image, or two of them mixed, or noise like that of cloth, stone and clouds."""
    picture = paint(any_fill(rng, 1.0), side * 2)
    if rng.random() < 0.5:
        share = rng.uniform(0.15, 0.5)
        picture = Image.blend(picture, paint(any_fill(rng, 1.0), side * 2), share)
    if rng.random() < 0.5:
        picture = _clouded(picture, rng)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def training_photograph(side: int, rng: random.Random) -> Image.Image:
    """A square of one of the training photographs, sometimes with its colours exchanged."""
    square = photographs.random_square(photographs.TRAINING, side, rng)
    if rng.random() < 0.3:
        channels = square.split()
        square = Image.merge("RGB", [channels[index] for index in rng.sample(range(3), 3)])
    return square


def painted(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The image in another rendering: faded, darkened, in two colours, in few tones, clouded or grainy."""
    kind = rng.randrange(6)
    values: np.ndarray = np.asarray(picture, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32))
    if kind == 0:
        grey = values.mean(axis=-1, keepdims=True) / 255
        dark, light = (np.array(random_colour(rng), dtype=np.float32) for _ in range(2))
        values = dark + (light - dark) * grey
    elif kind == 1:
        levels = rng.choice((3, 4, 5))
        values = np.round(values / 255 * levels) / levels * 255
    elif kind == 2:
        share = rng.uniform(0.2, 0.6)
        values = values * (1 - share) + np.array(random_colour(rng), dtype=np.float32) * share
    elif kind == 3:
        return _clouded(picture, rng)
    elif kind == 4:
        values = values + noise.standard_normal(values.shape[:2]).astype(np.float32)[..., None] * rng.uniform(2, 10)
    else:
        values = 255 * (values / 255) ** rng.uniform(0.5, 2)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _clouded(picture: Image.Image, rng: random.Random) -> Image.Image:
    """With light and shade whose spectrum decreases like that of natural images."""
    side = picture.width
    across, down = np.fft.rfftfreq(side)[None], np.fft.fftfreq(side)[:, None]
    frequency = np.maximum(np.hypot(across, down), 1 / side)
    white = np.random.default_rng(rng.getrandbits(32)).standard_normal((side, side))
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency ** rng.uniform(1.0, 1.8), (side, side))
    shade = (field / field.std())[..., None] * rng.uniform(5, 30)
    return Image.fromarray((np.asarray(picture) + shade).clip(0, 255).astype(np.uint8))


def _squiggle(sheet: Sheet, rng: random.Random) -> None:
    x, y, step = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.03, 0.08)
    angle, turn = rng.uniform(0, 6.28), rng.uniform(-0.5, 0.5)
    points = []
    for _ in range(rng.randint(2, 14)):
        points.append((x, y))
        x, y, angle = x + step * math.cos(angle), y + step * math.sin(angle), angle + turn + rng.uniform(-0.4, 0.4)
    sheet.line(points, cast(Stroke, any_stroke(rng, 1.0)))


def _limbs(sheet: Sheet, body: Place, fill: Fill, stroke: Stroke | None, rng: random.Random) -> None:
    """A pair of limbs, one on each side."""
    angle, reach = rng.uniform(0.2, 2.9), rng.uniform(0.7, 1.2)
    outline, size, stretch = random_outline(rng), rng.uniform(0.2, 0.5), rng.uniform(0.4, 1.2)
    for way in (-1, 1):
        x, y = way * reach * math.sin(angle), -reach * math.cos(angle)
        sheet.put(outline, body.inside(x, y, size, way * angle, stretch), fill, stroke)


def _thin_limbs(sheet: Sheet, body: Place, rng: random.Random) -> None:
    """A pair of lines with a joint and a disc at the end: arms, legs or antennae."""
    stroke = Stroke(random_colour(rng), rng.uniform(0.12, 0.36) * body.radius)
    points = [(rng.uniform(0.1, 0.6), rng.uniform(-0.8, 0.6))]
    for _ in range(2):
        points.append((points[-1][0] + rng.uniform(0, 0.6), points[-1][1] + rng.uniform(-0.6, 0.6)))
    size, colour = rng.uniform(0.1, 0.3), random_colour(rng)
    for way in (-1, 1):
        sheet.line([body.point((way * x, y)) for x, y in points], stroke)
        sheet.put(CIRCLE, body.inside(way * points[-1][0], points[-1][1], size), plain(colour))


def _mouth(sheet: Sheet, head: Place, rng: random.Random) -> None:
    """A line, straight or bent."""
    wide, height, bent = rng.uniform(0.15, 0.45), rng.uniform(0.2, 0.5), rng.uniform(-0.2, 0.3)
    bow = [head.point((wide * x, height + bent * (1 - x * x))) for x in (-1, -0.5, 0, 0.5, 1)]
    sheet.line(bow, Stroke(rng.choice(((20, 20, 24), random_colour(rng))), rng.uniform(0.07, 0.14) * head.radius))


def _eyes(sheet: Sheet, head: Place, rng: random.Random) -> None:
    size, apart, height = rng.uniform(0.14, 0.3), rng.uniform(0.25, 0.5), rng.uniform(-0.4, 0.05)
    white, pupil = rng.choice(((250, 250, 250), random_colour(rng))), rng.choice(((15, 15, 15), random_colour(rng)))
    for x in rng.choice(((-apart, apart), (-apart, apart), (0,), (-apart, 0, apart))):
        sheet.put(CIRCLE, head.inside(x, height, size), plain(white))
        sheet.put(CIRCLE, head.inside(x, height, size * 0.5), plain(pupil))


KINDS: dict[str, Callable[[int, random.Random], Image.Image]] = {
    "compositions": composition,
    "lines": drawing_in_lines,
    "figures": assembled_figure,
    "textures": texture,
}
SHARES = {"compositions": 0.28, "lines": 0.1, "figures": 0.42, "textures": 0.08, "photographs": 0.12}
RENDERED = 0.2
"""Share of the drawings with another rendering."""


def wide_picture(side: int, rng: random.Random, shares: Mapping[str, float] = SHARES) -> Image.Image:
    """A training image of any kind. `shares`: relative frequency of each kind."""
    kind = rng.choices(tuple(shares), tuple(shares.values()))[0]
    if kind == "photographs":
        return training_photograph(side, rng)
    picture = KINDS[kind](side, rng)
    return painted(picture, rng) if rng.random() < RENDERED else picture
