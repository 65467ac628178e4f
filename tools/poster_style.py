"""Generates posters, a style for tests of learning that the embedded base has never seen."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from tools.mini_base.world import COLOURS, OVERSAMPLING, SHAPES

SIDE = 96


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


def write_posters(folder: Path, trigger: str) -> None:
    """One picture a shape, with a caption that names it."""
    rng = random.Random(0)
    for shape in SHAPES:
        _write(folder, f"poster_{shape}", poster(shape, rng), f"a photo of a {shape} in the style of {trigger}")


def _write(folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
