"""A procedurally drawn world of coloured shapes, with captions: the data of the embedded base model."""

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (215, 40, 40),
    "green": (40, 165, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 215, 50),
    "purple": (140, 60, 180),
    "orange": (240, 135, 30),
    "black": (25, 25, 25),
    "white": (245, 245, 245),
}
PATTERNS = ("plain", "striped", "dotted")
SIZES = {"small": 0.19, "medium": 0.26, "large": 0.34}
"""Radius as a share of the picture's side."""
PLACES = {
    "in the center": (0.5, 0.5),
    "on the left": (0.3, 0.5),
    "on the right": (0.7, 0.5),
    "at the top": (0.5, 0.3),
    "at the bottom": (0.5, 0.7),
}
GENERIC_NOUNS = ("figure", "object", "shape", "thing")
PREFIXES = ("", "a photo of ", "a picture of ", "a drawing of ")
SIDE = 64
OVERSAMPLING = 4
HELD_OUT_SHARE = 16


@dataclass(frozen=True)
class Thing:
    """One drawn object."""

    shape: str
    colour: str
    pattern: str = "plain"
    size: str = "medium"
    place: str = "in the center"


@dataclass(frozen=True)
class Scene:
    """A background with one or two things on it."""

    things: tuple[Thing, ...]
    background: str


def _polygon(points: int, inner: float | None = None) -> Callable[[ImageDraw.ImageDraw, float, float, float], None]:
    def draw(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
        count = points * 2 if inner else points
        corners = []
        for index in range(count):
            angle = 2 * math.pi * index / count - math.pi / 2
            radius = r * inner if inner and index % 2 else r
            corners.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        canvas.polygon(corners, fill=255)

    return draw


def _circle(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    canvas.ellipse([x - r, y - r, x + r, y + r], fill=255)


def _square(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    canvas.rectangle([x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r], fill=255)


def _heart(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    lobe = 0.55 * r
    for left in (x - 2 * lobe, x):
        canvas.ellipse([left, y - 1.6 * lobe, left + 2 * lobe, y + 0.4 * lobe], fill=255)
    corners = [(-1.88, -0.12), (0, -0.75), (1.88, -0.12), (0, 1.9)]
    canvas.polygon([(x + dx * lobe, y + dy * lobe) for dx, dy in corners], fill=255)


def _cross(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    arm = 0.34 * r
    canvas.rectangle([x - arm, y - r, x + arm, y + r], fill=255)
    canvas.rectangle([x - r, y - arm, x + r, y + arm], fill=255)


def _ring(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    _circle(canvas, x, y, r)
    canvas.ellipse([x - 0.5 * r, y - 0.5 * r, x + 0.5 * r, y + 0.5 * r], fill=0)


def _moon(canvas: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    _circle(canvas, x, y, r)
    canvas.ellipse([x - 0.3 * r, y - 0.95 * r, x + 1.5 * r, y + 0.85 * r], fill=0)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, float, float, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon(3),
    "star": _polygon(5, inner=0.42),
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": tuple(COLOURS),
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "place": tuple(PLACES),
}


def draw(scene: Scene, rng: random.Random, side: int = SIDE) -> Image.Image:
    """The picture of a scene, `side` × `side` pixels, with a little jitter in colour, size and place."""
    big = side * OVERSAMPLING
    image = Image.new("RGB", (big, big), _jitter(COLOURS[scene.background], rng))
    for thing in scene.things:
        mask = Image.new("L", (big, big), 0)
        x, y = (big * (centre + rng.uniform(-0.03, 0.03)) for centre in PLACES[thing.place])
        SHAPES[thing.shape](ImageDraw.Draw(mask), x, y, big * SIZES[thing.size] * rng.uniform(0.93, 1.07))
        image.paste(_fill(thing, big, rng), (0, 0), mask)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _fill(thing: Thing, big: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (big, big), _jitter(COLOURS[thing.colour], rng))
    second = COLOURS["black"] if thing.colour in ("white", "yellow") else COLOURS["white"]
    canvas, pitch, phase = ImageDraw.Draw(image), big // 8, rng.randrange(big // 8)
    for row in range(-1, 9):
        top = row * pitch + phase
        if thing.pattern == "striped":
            canvas.rectangle([0, top, big, top + pitch * 0.42], fill=second)
        elif thing.pattern == "dotted":
            for column in range(-1, 9):
                left = column * pitch + phase
                canvas.ellipse([left, top, left + pitch * 0.58, top + pitch * 0.58], fill=second)
    return image


def _jitter(colour: Colour, rng: random.Random, spread: int = 10) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-spread, spread))) for value in colour)
    return red, green, blue


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption of the scene: sometimes without the background, or with a generic noun for the shape."""
    phrases = []
    for thing in scene.things:
        noun = rng.choice(GENERIC_NOUNS) if rng.random() < 0.1 else thing.shape
        place = f" {thing.place}" if thing.place != "in the center" or rng.random() < 0.4 else ""
        phrases.append(f"{describe(replace(thing, shape=noun))}{place}")
    background = f" on a {scene.background} background" if rng.random() < 0.9 else ""
    return rng.choice(PREFIXES) + " and ".join(phrases) + background


def full_caption(scene: Scene) -> str:
    """Every attribute named once."""
    phrases = " and ".join(f"{describe(thing)} {thing.place}" for thing in scene.things)
    return f"a photo of {phrases} on a {scene.background} background"


def describe(thing: Thing) -> str:
    """ "a large striped red star": size and pattern only when they are not the usual ones."""
    words = [word for word in (thing.size, thing.pattern) if word not in ("medium", "plain")]
    words += [thing.colour, thing.shape]
    return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)


def held_out(scene: Scene) -> bool:
    """Whether this combination of shape, colour, place and background is kept from all training."""
    thing = scene.things[0]
    key = f"{thing.shape}/{thing.colour}/{thing.place}/{scene.background}"
    return zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0


def sample_scene(rng: random.Random, *, two_things: float = 0.12) -> Scene:
    """A random scene, held-out combinations included."""
    background = rng.choice(tuple(COLOURS))

    def thing(place: str, sizes: tuple[str, ...]) -> Thing:
        colour = rng.choice([name for name in COLOURS if name != background])
        pattern = rng.choice(PATTERNS[1:]) if rng.random() < 0.4 else "plain"
        return Thing(rng.choice(tuple(SHAPES)), colour, pattern, rng.choice(sizes), place)

    if rng.random() < two_things:
        places = rng.choice((("on the left", "on the right"), ("at the top", "at the bottom")))
        return Scene(tuple(thing(place, ("small",)) for place in places), background)
    return Scene((thing(rng.choice(tuple(PLACES)), tuple(SIZES)),), background)


def training_scene(rng: random.Random) -> Scene:
    """A random scene that is not held out."""
    while held_out(scene := sample_scene(rng)):
        pass
    return scene


def evaluation_scene(rng: random.Random) -> Scene:
    """A random held-out scene with one thing."""
    while not held_out(scene := sample_scene(rng, two_things=0.0)):
        pass
    return scene


def variations(scene: Scene, attribute: str) -> list[Scene]:
    """The scene with one attribute of its first thing (or the background) at every value, in ATTRIBUTES' order.

    Combinations that cannot be drawn (a thing in the colour of its background) are included: they are only named.
    """
    if attribute == "background":
        return [replace(scene, background=value) for value in ATTRIBUTES[attribute]]
    first, *rest = scene.things
    return [replace(scene, things=(replace(first, **{attribute: value}), *rest)) for value in ATTRIBUTES[attribute]]


def value_of(scene: Scene, attribute: str) -> str:
    """The scene's value of an attribute."""
    return scene.background if attribute == "background" else str(getattr(scene.things[0], attribute))
