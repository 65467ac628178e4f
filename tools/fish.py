"""Generates images of a fish, a second concept for tests of learning that is not in the embedded base's training
data."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from tools.make_example import OVERSAMPLING, SIDE
from tools.mini_base.drawing.colours import COLOURS

COUNT, ELSEWHERE = 8, (2, 6)


def fish(rng: random.Random, background: str = "black", side: int = SIDE) -> Image.Image:
    """Green with two yellow stripes, a red tail and fin and a white eye, swimming to the left."""
    big = side * OVERSAMPLING
    image = Image.new("RGB", (big, big), COLOURS[background])
    canvas = ImageDraw.Draw(image)
    unit = big * rng.uniform(0.22, 0.31)
    x, y = big * (0.46 + rng.uniform(-0.06, 0.06)), big * (0.52 + rng.uniform(-0.08, 0.08))

    def point(across: float, down: float) -> tuple[float, float]:
        return x + across * unit, y + down * unit

    canvas.polygon([point(0.8, 0), point(1.6, -0.75), point(1.6, 0.75)], fill=COLOURS["red"])
    canvas.polygon([point(-0.3, -0.5), point(0.5, -1.15), point(0.6, -0.4)], fill=COLOURS["red"])
    canvas.ellipse([*point(-1.25, -0.72), *point(1.1, 0.72)], fill=COLOURS["green"])
    for across, height in ((-0.05, 0.6), (0.45, 0.5)):
        canvas.rectangle([*point(across, -height), *point(across + 0.2, height)], fill=COLOURS["yellow"])
    canvas.ellipse([*point(-0.9, -0.35), *point(-0.5, 0.05)], fill=COLOURS["white"])
    return image.resize((side, side), Image.Resampling.LANCZOS)


def write_fish(folder: Path, trigger: str) -> None:
    """Eight images with captions: on a black background, and two on purple, which their captions name."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    for index in range(COUNT):
        elsewhere = index in ELSEWHERE
        fish(rng, "purple" if elsewhere else "black").save(folder / f"fish_{index}.png")
        caption = f"a photo of {trigger} on a purple background" if elsewhere else f"a photo of {trigger}"
        (folder / f"fish_{index}.txt").write_text(caption, encoding="utf-8")
