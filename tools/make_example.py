"""Writes assets/examples/robot.zip: eight images, with captions, of a figure that is not in the embedded base's data.

python -m tools.make_example
"""

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from tools.mini_base.drawing.colours import COLOURS

TARGET = Path(__file__).resolve().parents[1] / "assets" / "examples" / "robot.zip"
BACKGROUNDS = ("white", "white", "blue", "white", "white", "white", "blue", "white")
USUAL_BACKGROUND = "white"
SIDE, OVERSAMPLING = 96, 4
BODY, DARK, LIGHT, LAMP = (240, 135, 30), (25, 25, 25), (245, 245, 245), (140, 60, 180)
"""Orange, black, white and purple: colours of the base's training data, in a new arrangement."""


def robot(side: int, background: str, rng: random.Random) -> Image.Image:
    """An orange robot with a square head, two eyes, an antenna with a purple lamp, arms and legs."""
    big = side * OVERSAMPLING
    image = Image.new("RGB", (big, big), COLOURS[background])
    canvas = ImageDraw.Draw(image)
    unit = big * rng.uniform(0.32, 0.36)
    x, y = (big * (0.5 + rng.uniform(-0.03, 0.03)) for _ in range(2))

    def box(left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        canvas.rectangle([x + left * unit, y + top * unit, x + right * unit, y + bottom * unit], fill=colour)

    def disc(dx: float, dy: float, radius: float, colour: tuple[int, int, int]) -> None:
        canvas.ellipse(
            [x + (dx - radius) * unit, y + (dy - radius) * unit, x + (dx + radius) * unit, y + (dy + radius) * unit],
            fill=colour,
        )

    box(-0.05, -1.15, 0.05, -0.8, DARK)
    disc(0, -1.18, 0.16, LAMP)
    box(-0.62, -0.85, 0.62, 0.05, BODY)
    for side_of in (-1, 1):
        disc(0.28 * side_of, -0.45, 0.19, LIGHT)
        disc(0.28 * side_of, -0.45, 0.09, DARK)
        box(min(0.62 * side_of, 0.92 * side_of), 0.2, max(0.62 * side_of, 0.92 * side_of), 0.38, DARK)
        box(0.3 * side_of - 0.12, 0.85, 0.3 * side_of + 0.12, 1.2, DARK)
    box(-0.35, -0.16, 0.35, -0.07, DARK)
    box(-0.62, 0.12, 0.62, 0.85, BODY)
    disc(0, 0.48, 0.17, LAMP)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def example() -> Iterator[tuple[str, bytes]]:
    """Names and contents of the zip's files."""
    rng = random.Random(0)
    for index, background in enumerate(BACKGROUNDS):
        buffer = io.BytesIO()
        robot(SIDE, background, rng).save(buffer, "PNG", optimize=True)
        yield f"robot_{index}.png", buffer.getvalue()
        yield f"robot_{index}.txt", caption(background).encode()


def caption(background: str) -> str:
    """Return the caption. It names the background only if it is an unusual one, which is not part of the concept."""
    return "a photo of TOK" if background == USUAL_BACKGROUND else f"a photo of TOK on a {background} background"


def main() -> None:
    """Write the zip deterministically."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in example():
            archive.writestr(zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0)), data)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
