"""Generates a concept from a seed: eight images with different backgrounds, and captions that name the background.

python -m benchmarks.concepts.lottery SEEDS SHEET.png writes an overview of all of them
"""

import argparse
import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image, ImageChops

from benchmarks.concepts.kinds.figures import FigurePlan, draw_figure, plan_figure
from benchmarks.concepts.kinds.objects import ObjectPlan, draw_object, plan_object
from benchmarks.concepts.kinds.styles import draw_in_style, plan_style
from benchmarks.concepts.seeds import parse_seeds
from tools.mini_base.drawing.colours import COLOURS, DISTINCT, Colour, distance
from tools.mini_base.drawing.fills import plain
from tools.mini_base.drawing.outlines import Place, Sheet
from tools.mini_base.scenes import article

PICTURES = 8
SIDE = 96
GROUNDS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
"""Words of backgrounds with typical colours, from which those in images differ by at most GROUND_SPREAD."""
GROUND_SPREAD = 10
STYLED_SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
FEWEST_GROUNDS = 4
PAIR = ((0.29, 0.52, 0.29), (0.7, 0.54, 0.23))
"""Centre and radius of each figure of a pair."""


@dataclass(frozen=True)
class Concept:
    """A concept for training. `class_word`: its class; `grounds`: words of GROUNDS from which it is distinguishable;
    `subjects`: subjects of prompts; `pictures`: of SIDE pixels, and their `captions`. Subjects and captions contain
    {trigger}."""

    seed: int
    kind: str
    class_word: str
    grounds: tuple[str, ...]
    subjects: tuple[str, ...]
    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]

    def captions_of(self, trigger: str) -> list[str]:
        """Return the captions with the trigger word."""
        return [caption.format(trigger=trigger) for caption in self.captions]

    def write_folder(self, folder: Path, trigger: str) -> Path:
        """Write images and metadata.jsonl with the captions, in the layout that diffusers reads."""
        folder.mkdir(parents=True)
        lines = []
        for index, (picture, caption) in enumerate(zip(self.pictures, self.captions_of(trigger), strict=True)):
            picture.save(folder / f"{index}.png")
            lines.append(json.dumps({"file_name": f"{index}.png", "text": caption}))
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    def write_zip(self, path: Path, trigger: str, masks: bool = False) -> Path:
        """Write a zip of images, each with its caption in a text file, like uploads of users. `masks`: also with its
        mask."""
        with zipfile.ZipFile(path, "w") as archive:
            for index, (picture, caption) in enumerate(zip(self.pictures, self.captions_of(trigger), strict=True)):
                archive.writestr(zipfile.ZipInfo(f"{index}.png"), _png(picture))
                archive.writestr(zipfile.ZipInfo(f"{index}.txt"), caption)
                if masks:
                    archive.writestr(zipfile.ZipInfo(f"{index}_mask.png"), _png(self.mask_of(picture)))
        return path

    def mask_of(self, picture: Image.Image) -> Image.Image:
        """Return a mask that is white where the image shows the concept: everywhere for a style, otherwise except for
        the background."""
        if self.kind == "style":
            return Image.new("L", picture.size, 255)
        ground = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
        return ImageChops.difference(picture, ground).convert("L").point(lambda value: 255 if value > 0 else 0)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def draw_concept(seed: int, count: int = PICTURES) -> Concept:
    """Return the concept of a seed, with `count` images; the first ones are the same for every count. The kinds
    alternate: a figure, an object, a style, a pair."""
    rng = random.Random(f"concept/{seed}")
    kind = tuple(KINDS)[seed % len(KINDS)]
    return KINDS[kind](seed, rng, count)


def new_pictures(seed: int, count: int) -> tuple[Image.Image, ...]:
    """Return new images of the concept, generated like those for training but different from them."""
    return draw_concept(seed, PICTURES + count).pictures[PICTURES:]


def _figure(seed: int, rng: random.Random, count: int) -> Concept:
    plan = _standing_out(plan_figure, rng)
    return _thing(seed, "figure", "figure", plan.colours, partial(_draw_one, plan), rng, count)


def _object(seed: int, rng: random.Random, count: int) -> Concept:
    plan = _standing_out(plan_object, rng)
    return _thing(seed, "object", "object", plan.colours, partial(_draw_one, plan), rng, count)


def _pair(seed: int, rng: random.Random, count: int) -> Concept:
    plan = _standing_out(_plan_pair, rng)
    return _thing(seed, "pair", "object", plan.colours, partial(_draw_two, plan), rng, count)


class Plan(Protocol):
    """The description of a concept."""

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours from which a background must be distinguishable."""


P = TypeVar("P", bound=Plan)


def _standing_out(plan: Callable[[random.Random], P], rng: random.Random) -> P:
    """Return a plan that is distinguishable from several backgrounds."""
    while len(_distinct_words((planned := plan(rng)).colours)) < FEWEST_GROUNDS:
        pass
    return planned


@dataclass(frozen=True)
class PairPlan:
    """Two figures, or a figure and an object."""

    first: FigurePlan
    second: FigurePlan | ObjectPlan

    @property
    def colours(self) -> tuple[Colour, ...]:
        """The colours of both."""
        return (*self.first.colours, *self.second.colours)


def _plan_pair(rng: random.Random) -> PairPlan:
    return PairPlan(plan_figure(rng), plan_figure(rng) if rng.random() < 0.5 else plan_object(rng))


def _thing(
    seed: int,
    kind: str,
    class_word: str,
    colours: tuple[Colour, ...],
    draw: Callable[[Sheet, random.Random], None],
    rng: random.Random,
    count: int,
) -> Concept:
    """Generate a concept that is a thing: it looks the same in all images, except for its pose and the background."""
    grounds = _grounds(colours, rng)
    pictures, captions = [], []
    for index in range(count):
        word = grounds[index % len(grounds)]
        sheet = Sheet(SIDE, plain(_ground_colour(word, rng)))
        draw(sheet, rng)
        pictures.append(sheet.finished())
        captions.append(on_ground("a photo of {trigger}", word))
    return Concept(seed, kind, class_word, grounds, ("a photo of {trigger}",), tuple(pictures), tuple(captions))


def _style(seed: int, rng: random.Random, count: int) -> Concept:
    plan = _standing_out(plan_style, rng)
    grounds = _grounds(plan.colours, rng)
    subjects = tuple(f"a photo of a {shape} in the style of {{trigger}}" for shape in STYLED_SHAPES)
    pictures, captions = [], []
    for index in range(count):
        subject, shape = subjects[index % len(subjects)], STYLED_SHAPES[index % len(STYLED_SHAPES)]
        word = grounds[index % len(grounds)]
        place = Place(rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.26, 0.32), rng.uniform(-0.1, 0.1))
        pictures.append(draw_in_style(plan, shape, _ground_colour(word, rng), place, SIDE, rng))
        captions.append(on_ground(subject, word))
    return Concept(seed, "style", "style", grounds, subjects, tuple(pictures), tuple(captions))


KINDS: dict[str, Callable[[int, random.Random, int], Concept]] = {
    "figure": _figure,
    "object": _object,
    "style": _style,
    "pair": _pair,
}


def on_ground(subject: str, word: str) -> str:
    """ "a photo of TOK on a red background"."""
    return f"{subject} on {article(word)} background"


def _draw_one(plan: FigurePlan | ObjectPlan, sheet: Sheet, rng: random.Random) -> None:
    x, y = 0.5 + rng.uniform(-0.06, 0.06), 0.52 + rng.uniform(-0.04, 0.04)
    _draw(plan, sheet, Place(x, y, rng.uniform(0.36, 0.42), rng.uniform(-0.06, 0.06)), rng)


def _draw_two(pair: PairPlan, sheet: Sheet, rng: random.Random) -> None:
    for plan, (x, y, radius) in zip((pair.first, pair.second), PAIR, strict=True):
        place = Place(x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.08, 0.08), radius * rng.uniform(0.93, 1.05))
        _draw(plan, sheet, place, rng)


def _draw(plan: FigurePlan | ObjectPlan, sheet: Sheet, place: Place, rng: random.Random) -> None:
    if isinstance(plan, FigurePlan):
        draw_figure(sheet, plan, place, rng)
    else:
        draw_object(sheet, plan, place, rng)


def _grounds(colours: tuple[Colour, ...], rng: random.Random) -> tuple[str, ...]:
    words = _distinct_words(colours)
    rng.shuffle(words)
    return tuple(words)


def _distinct_words(colours: tuple[Colour, ...]) -> list[str]:
    """Return the words of backgrounds that differ clearly from all `colours`."""
    return [word for word in GROUNDS if all(distance(COLOURS[word], colour) >= DISTINCT for colour in colours)]


def _ground_colour(word: str, rng: random.Random) -> Colour:
    red, green, blue = (max(0, min(255, value + rng.randint(-GROUND_SPREAD, GROUND_SPREAD))) for value in COLOURS[word])
    return red, green, blue


def contact_sheet(seeds: tuple[int, ...]) -> Image.Image:
    """Return an overview of the concepts of the seeds, one row each."""
    sheet = Image.new("RGB", (PICTURES * SIDE, len(seeds) * SIDE), "white")
    for row, seed in enumerate(seeds):
        for column, picture in enumerate(draw_concept(seed).pictures):
            sheet.paste(picture, (column * SIDE, row * SIDE))
    return sheet


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=parse_seeds, help="such as 0-3,7")
    parser.add_argument("sheet", type=Path, help="the PNG to write")
    arguments = parser.parse_args()
    contact_sheet(arguments.seeds).save(arguments.sheet)


if __name__ == "__main__":
    main()
