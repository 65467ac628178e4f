"""A prepared dataset: plain files that users can open, edit, and train from again.

images/0000_name.png     training images, one file per view
conditioning/0000_name.png  conditioning images of a ControlNet, for views that have one; .safetensors: faces
masks/0000_name.png      masks of the views that have one
previews/0000_name.webp  small copies of the whole images, for the gallery
dataset.jsonl            one line per image, with every decision about it
rejected.jsonl           one line per rejected file, with the reason
summary.json             counts and warnings that concern no single image
dataset.html             a page with all of it
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from preprocess.crops.crop import Crop
from preprocess.errors import DatasetError
from preprocess.repeated_warnings import gathered
from preprocess.workers.parallel import ordered_map

Row = TypeVar("Row")
FACES_SUFFIX = ".safetensors"
"""Suffix of conditions that are faces, not images (`preprocess.control.faces`)."""
DATASET_FILE, REJECTED_FILE, SUMMARY_FILE = "dataset.jsonl", "rejected.jsonl", "summary.json"


@dataclass(frozen=True)
class FaceBox:
    """A face in pixels of the whole image (after EXIF orientation). `score`: 0 to 1."""

    left: float
    top: float
    width: float
    height: float
    score: float


@dataclass(frozen=True)
class View:
    """One training view of an image. Files are relative to the dataset folder."""

    file: str
    crop: Crop
    mask: str | None = None
    flipped: bool = False
    control: str | None = None


@dataclass(frozen=True)
class Example:
    """One training image. `source` is the user's file. The first view is the plain one, the others are augmentations.

    `concept`: the trigger word, "" for none, None in the preservation set. `weight` scales its loss, `repeats` is how
    often it is seen in an epoch. `crop_source`: face, mask, saliency or centre; hand if the user moved the crop. One of
    `caption` and `other_captions` is drawn each time. `picture` numbers the images of a dataset with several
    resolutions, in which each image has one example for each size; None with a single resolution.
    """

    source: str
    caption: str
    caption_source: str
    views: tuple[View, ...]
    concept: str | None = None
    repeats: int = 1
    weight: float = 1.0
    preview: str | None = None
    faces: tuple[FaceBox, ...] = ()
    crop_source: str = "centre"
    warnings: tuple[str, ...] = ()
    other_captions: tuple[str, ...] = ()
    picture: int | None = None

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions, beginning with `caption`."""
        return (self.caption, *self.other_captions)

    @property
    def bucket(self) -> tuple[int, int]:
        """The trained size (width, height) in pixels."""
        return self.views[0].crop.target


@dataclass(frozen=True)
class Rejected:
    """A file that is not trained, and the reason."""

    source: str
    reason: str


def picture_key(place: int, picture: int | None) -> int:
    """Return a number that identifies an image, equal for all its examples. `place`: the number of the example;
    `picture`: that of its image, if there are several resolutions."""
    return place if picture is None else -1 - picture


@dataclass(frozen=True)
class PreparedDataset:
    """All decisions about the user's files. `warnings` concern no single image."""

    folder: Path
    examples: tuple[Example, ...]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...]

    @property
    def largest(self) -> tuple[Example, ...]:
        """One example of each image: at the largest of the resolutions that it is trained at."""
        chosen = {picture_key(place, each.picture): each for place, each in enumerate(self.examples)}
        return tuple(chosen.values())

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """The warnings of the images, then the general ones."""
        return (*(warning for example in self.examples for warning in example.warnings), *self.warnings)

    @property
    def combined_warnings(self) -> list[str]:
        """The warnings for display: equal warnings of many images are combined into one line."""
        lines = [(example.source, warning) for example in self.examples for warning in example.warnings]
        return [*gathered(lines), *self.warnings]

    def write(self) -> None:
        """Write dataset.jsonl, rejected.jsonl and summary.json into the folder."""
        _write_lines(self.folder / DATASET_FILE, map(_row, self.examples))
        _write_lines(self.folder / REJECTED_FILE, map(asdict, self.rejected))
        summary = {"images": len(self.largest), "rejected": len(self.rejected), "warnings": self.warnings}
        (self.folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "PreparedDataset":
        """Read the files that `write` wrote, with the user's edits.

        Raises DatasetError, naming file and line, for malformed lines or missing images.
        """
        examples = _read_lines(folder / DATASET_FILE, TypeAdapter(Example))
        rejected = _read_lines(folder / REJECTED_FILE, TypeAdapter(Rejected))
        for number, example in zip(line_numbers(folder), examples, strict=True):
            _check(example, folder, f"{DATASET_FILE}, line {number}")
        if not examples:
            raise DatasetError(f"{folder / DATASET_FILE}: contains no lines. Prepare the images again.")
        return cls(folder, tuple(examples), tuple(rejected), _summary_warnings(folder))

    def digest(self) -> str:
        """Return 16 hex digits over pixels, masks and captions. Equal data give equal digits.

        The digest is computed once and cached: every checkpoint stores it.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        names = [name for example in self.examples for name in _files(example)]
        of_file = dict(zip(names, ordered_map(self._digest_of_file, names), strict=True))
        digest = hashlib.sha256()
        for example in self.examples:
            for name in _files(example):
                digest.update(of_file[name])
            label = [*example.captions, example.concept, example.repeats, example.weight]
            digest.update(json.dumps(label).encode())
        return digest.hexdigest()[:16]

    def _digest_of_file(self, name: str) -> bytes:
        return hashlib.sha256((self.folder / name).read_bytes()).digest()


def is_prepared(folder: Path) -> bool:
    """Whether `folder` is a prepared dataset rather than a folder of images."""
    return (folder / DATASET_FILE).is_file() and (folder / "images").is_dir()


def are_prepared(sources: Sequence[str | Path]) -> bool:
    """Whether `sources` is one prepared dataset rather than archives, folders or URLs of images."""
    return len(sources) == 1 and is_prepared(Path(sources[0]))


def line_numbers(folder: Path) -> list[int]:
    """Return the line numbers of the examples in dataset.jsonl, counted from 1. Editors may leave blank lines."""
    return [number for number, _ in _lines(folder / DATASET_FILE)]


def _row(example: Example) -> dict[str, Any]:
    """Return the fields of a line, without further captions and conditioning images where there are none."""
    row = asdict(example)
    for view in row["views"]:
        if view["control"] is None:
            del view["control"]
    if not example.other_captions:
        del row["other_captions"]
    if example.picture is None:
        del row["picture"]
    return row


def _files(example: Example) -> list[str]:
    return [name for view in example.views for name in (view.file, view.mask, view.control) if name]


def _check(example: Example, folder: Path, where: str) -> None:
    if not example.views:
        raise DatasetError(f"{where}: has no views. Remove the line, or prepare the images again.")
    if example.repeats < 1:
        raise DatasetError(f"{where}: repeats is {example.repeats}; set at least 1, or remove the line.")
    if not 0 < example.weight < math.inf:
        raise DatasetError(f"{where}: weight is {example.weight:g}; set it above 0, or remove the line.")
    for name in _files(example):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DatasetError(f"{where}: {name} is outside the dataset folder")
        if not path.is_file():
            raise DatasetError(f"{where}: {name} is missing. Remove the line, or prepare the images again.")
        if not name.endswith(FACES_SUFFIX):
            _check_size(path, example.bucket, f"{where}: {name}")


def _check_size(path: Path, size: tuple[int, int], where: str) -> None:
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError as error:
        raise DatasetError(f"{where} cannot be read as an image ({error}). Prepare the images again.") from error
    if (width, height) != size:
        cut = f"{size[0]}×{size[1]}"
        raise DatasetError(f"{where} is {width}×{height}, and was cropped to {cut}. Restore that size.")


def _summary_warnings(folder: Path) -> tuple[str, ...]:
    path = folder / SUMMARY_FILE
    return tuple(json.loads(path.read_text(encoding="utf-8"))["warnings"]) if path.is_file() else ()


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _read_lines(path: Path, kind: TypeAdapter[Row]) -> list[Row]:
    rows = []
    for number, line in _lines(path):
        try:
            rows.append(kind.validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            where = [f"{path.name}, line {number}", *filter(None, [".".join(map(str, problem["loc"]))])]
            raise DatasetError(f"{': '.join(where)}: {problem['msg']}. Undo the edit.") from error
    return rows


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers. Only line feeds end lines: U+2028 may occur in a file
    name."""
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name}: is not UTF-8 ({error}). Save it as UTF-8.") from error
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
