"""Generates posters, a style for tests of learning that is not in the embedded base's training data."""

import random
from pathlib import Path

from PIL import Image

from tools.make_example import SIDE
from tools.mini_base.drawing.colours import COLOURS
from tools.mini_base.drawing.fills import plain
from tools.mini_base.drawing.outlines import CIRCLE, SHAPES, Outline, Place, Sheet

INSET, CORNER = 0.1, 0.07
"""Width of the frame and radius of its corners' discs, as shares of the side."""
RIM = 1.18
"""Radius of the white rim, relative to the shape's."""
RECTANGLE = Outline((((-1, -1), (1, -1), (1, 1), (-1, 1)),))


def poster(shape: str, rng: random.Random, side: int = SIDE) -> Image.Image:
    """One of the base's shapes as a poster: orange with a white rim, on purple in a black frame with white corners."""
    sheet = Sheet(side, plain(COLOURS["black"]))
    sheet.put(RECTANGLE, Place(0.5, 0.5, 0.5 - INSET), plain(COLOURS["purple"]))
    for x in (INSET, 1 - INSET):
        for y in (INSET, 1 - INSET):
            sheet.put(CIRCLE, Place(x, y, CORNER), plain(COLOURS["white"]))
    x, y = (0.5 + rng.uniform(-0.02, 0.02) for _ in range(2))
    radius = rng.uniform(0.26, 0.29)
    for size, colour in ((radius * RIM, COLOURS["white"]), (radius, COLOURS["orange"])):
        sheet.put(SHAPES[shape], Place(x, y, size), plain(colour))
    return sheet.finished()


def write_posters(folder: Path, trigger: str) -> None:
    """One image per shape, with a caption that names it."""
    rng = random.Random(0)
    for shape in SHAPES:
        _write(folder, f"poster_{shape}", poster(shape, rng), f"a photo of a {shape} in the style of {trigger}")


def _write(folder: Path, name: str, picture: Image.Image, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
