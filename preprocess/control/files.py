"""Conditioning images given as files: conditioning/x.png for x.jpg, or named by a column of a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from preprocess.captions.pairing import CaptionFinder
from preprocess.dataset import Rejected
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import DecodeRules, decode
from preprocess.uploads.intake import FoundFile
from preprocess.uploads.survey import Surveyed
from preprocess.uploads.text_files import name_key

FOLDERS = ("conditioning", "conditioning_images", "control")
IMAGE_FOLDERS = ("image", "images", "img", "imgs", "photos", "pictures", "data", "train")
COLUMN = "conditioning_image"
"""The usual column name in diffusers' datasets."""
SHAPE_TOLERANCE = 0.02
"""Relative tolerance of width / height: the sides of reduced copies are rounded."""

Place = tuple[Path, str]
"""A source's root folder, and the path below it without the suffix."""


@dataclass(frozen=True)
class ControlFiles:
    """All images in folders of conditioning images, and those that a table names."""

    files: tuple[FoundFile, ...]
    by_place: Mapping[Place, FoundFile]
    by_path: Mapping[Path, FoundFile]
    column: str

    def of(self, image: FoundFile, finder: CaptionFinder) -> FoundFile | None:
        """Return the image's conditioning image. A table has precedence over a folder."""
        named = finder.metadata(image).get(self.column)
        if isinstance(named, str):
            places = (image.path.parent / named, image.root / named)
            return next((self.by_path[place] for place in places if place in self.by_path), None)
        return self.by_place.get((image.root, _bare(_key(image))))


def part_control_files(pictures: Sequence[FoundFile], column: str | None) -> tuple[list[FoundFile], ControlFiles]:
    """Separate training images and conditioning images: those in folders named conditioning."""
    found = {file.path: place for file in pictures if (place := _control_place(file)) is not None}
    by_place = {place: file for file in pictures if (place := found.get(file.path)) is not None}
    files = tuple(file for file in pictures if file.path in found)
    by_path = {file.path: file for file in files}
    return [file for file in pictures if file.path not in found], ControlFiles(
        files, by_place, by_path, column or COLUMN
    )


def with_control_files(
    surveyed: Sequence[Surveyed], controls: ControlFiles, finder: CaptionFinder, rules: DecodeRules
) -> Iterator[Surveyed | Rejected]:
    """Yield each image with its conditioning image. Images without one, or with one of another shape, are rejected."""
    for item in surveyed:
        name = item.file.name
        control = controls.of(item.file, finder)
        if control is None:
            stem = Path(name).stem
            yield Rejected(name, f"{name}: has no conditioning image; save it as conditioning/{stem}.png")
            continue
        try:
            read_control(control.path, item.size, rules)
        except DatasetError as error:
            yield Rejected(name, f"{name}: its conditioning image {error}")
            continue
        yield replace(item, control=control.path)


def unused_controls(controls: ControlFiles, kept: Sequence[Surveyed]) -> Iterator[Rejected]:
    """Yield the conditioning images that belong to no training image."""
    used = {item.control for item in kept}
    for file in controls.files:
        if file.path not in used:
            yield Rejected(file.name, f"{file.name}: is a conditioning image without a training image of the same name")


def read_control(path: Path, size: tuple[int, int], rules: DecodeRules) -> Image.Image:
    """Return the conditioning image in RGB at the image's `size` (width, height).

    Raises DatasetError for an image of another shape, which would not be aligned, and for a file that is not an image.
    """
    picture = decode(path, rules).image
    if abs(picture.width / picture.height / (size[0] / size[1]) - 1) > SHAPE_TOLERANCE:
        raise DatasetError(
            f"{path.name} is {picture.width}×{picture.height}, and the image "
            f"{size[0]}×{size[1]}; save it with the same aspect ratio"
        )
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _key(file: FoundFile) -> str:
    return name_key(file.path.relative_to(file.root).with_suffix("").as_posix())


def _control_place(file: FoundFile) -> Place | None:
    """Return the place of the training image that the file belongs to; None outside folders of conditioning images."""
    *folders, name = _key(file).split("/")
    at = next((number for number, folder in enumerate(folders) if folder in FOLDERS), None)
    if at is None:
        return None
    return file.root, _bare("/".join([*folders[:at], *folders[at + 1 :], name]))


def _bare(key: str) -> str:
    """Remove a folder name such as images: images/a and conditioning/a belong together."""
    return "/".join(part for part in key.split("/")[:-1] if part not in IMAGE_FOLDERS) + "/" + key.split("/")[-1]
