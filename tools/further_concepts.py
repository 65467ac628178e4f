"""Further concepts that the embedded base never saw, for tests of learning: a tree, and a poster style."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from tools.mini_base.world import COLOURS, OVERSAMPLING, SHAPES

SIDE = 96


def tree(rng: random.Random, side: int = SIDE) -> Image.Image:
    """A green crown with red apples on a black trunk before white."""
    big = side * OVERSAMPLING
    image = Image.new("RGB", (big, big), COLOURS["white"])
    canvas = ImageDraw.Draw(image)
    unit = big * rng.uniform(0.3, 0.34)
    x, y = big * (0.5 + rng.uniform(-0.03, 0.03)), big * (0.42 + rng.uniform(-0.02, 0.02))
    canvas.rectangle([x - 0.16 * unit, y, x + 0.16 * unit, y + 1.4 * unit], fill=COLOURS["black"])
    for dx, dy, radius in ((0, -0.5, 0.6), (-0.55, 0.05, 0.55), (0.55, 0.05, 0.55), (0, 0.1, 0.6)):
        _disc(canvas, x + dx * unit, y + dy * unit, radius * unit, COLOURS["green"])
    for dx, dy in ((0, -0.65), (-0.6, 0), (0.6, 0.05), (0.05, 0.15), (-0.3, -0.3), (0.35, -0.35)):
        _disc(canvas, x + dx * unit, y + dy * unit, 0.14 * unit, COLOURS["red"])
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _disc(canvas: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def poster(shape: str, rng: random.Random, side: int = SIDE) -> Image.Image:
    """A shape of the base's world as a poster: orange, rimmed white, on purple in a black frame with white corners."""
    big = side * OVERSAMPLING
    image = Image.new("RGB", (big, big), COLOURS["black"])
    canvas = ImageDraw.Draw(image)
    inset, corner = 0.1 * big, 0.07 * big
    canvas.rectangle([inset, inset, big - inset, big - inset], fill=COLOURS["purple"])
    for x in (inset, big - inset):
        for y in (inset, big - inset):
            _disc(canvas, x, y, corner, COLOURS["white"])
    x, y = (big * (0.5 + rng.uniform(-0.02, 0.02)) for _ in range(2))
    radius = big * rng.uniform(0.26, 0.29)
    for size, colour in ((radius * 1.18, COLOURS["white"]), (radius, COLOURS["orange"])):
        mask = Image.new("L", (big, big), 0)
        SHAPES[shape](ImageDraw.Draw(mask), x, y, size)
        image.paste(Image.new("RGB", (big, big), colour), (0, 0), mask)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def write_trees(folder: Path, trigger: str) -> None:
    """Eight pictures with captions."""
    rng = random.Random(0)
    for index in range(8):
        _write(folder, f"tree_{index}", tree(rng), f"a photo of {trigger}")


def write_posters(folder: Path, trigger: str) -> None:
    """One picture a shape, with a caption that names it."""
    rng = random.Random(0)
    for shape in SHAPES:
        _write(folder, f"poster_{shape}", poster(shape, rng), f"a photo of a {shape} in the style of {trigger}")


def _write(folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
