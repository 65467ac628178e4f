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
"""As diffusers' data sets call it."""
SHAPE_TOLERANCE = 0.02
"""Of width / height: reduced copies are rounded."""

Place = tuple[Path, str]
"""A root, and the path below it without the suffix."""


@dataclass(frozen=True)
class ControlFiles:
    """All pictures in folders of conditioning pictures, and those that a table names."""

    files: tuple[FoundFile, ...]
    by_place: Mapping[Place, FoundFile]
    by_path: Mapping[Path, FoundFile]
    column: str

    def of(self, image: FoundFile, finder: CaptionFinder) -> FoundFile | None:
        """The image's conditioning picture. A table goes before a folder."""
        named = finder.metadata(image).get(self.column)
        if isinstance(named, str):
            places = (image.path.parent / named, image.root / named)
            return next((self.by_path[place] for place in places if place in self.by_path), None)
        return self.by_place.get((image.root, _bare(_key(image))))


def part_control_files(pictures: Sequence[FoundFile], column: str | None) -> tuple[list[FoundFile], ControlFiles]:
    """The training images, and the conditioning pictures: all in folders named conditioning."""
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
    """Each image with its conditioning picture. One that has none, or one of another shape, is refused."""
    for item in surveyed:
        name = item.file.name
        control = controls.of(item.file, finder)
        if control is None:
            stem = Path(name).stem
            yield Rejected(name, f"{name}: has no conditioning picture; put it at conditioning/{stem}.png")
            continue
        try:
            read_control(control.path, item.size, rules)
        except DatasetError as error:
            yield Rejected(name, f"{name}: its conditioning picture {error}")
            continue
        yield replace(item, control=control.path)


def unused_controls(controls: ControlFiles, kept: Sequence[Surveyed]) -> Iterator[Rejected]:
    """Conditioning pictures of no image that is trained."""
    used = {item.control for item in kept}
    for file in controls.files:
        if file.path not in used:
            yield Rejected(file.name, f"{file.name}: a conditioning picture, and no image of its name is trained")


def read_control(path: Path, size: tuple[int, int], rules: DecodeRules) -> Image.Image:
    """The conditioning picture in RGB at the image's `size` (width, height).

    Raises DatasetError for a picture of another shape, which would show other places, and for a file that is none.
    """
    picture = decode(path, rules).image
    if abs(picture.width / picture.height / (size[0] / size[1]) - 1) > SHAPE_TOLERANCE:
        raise DatasetError(
            f"{path.name} is {picture.width}×{picture.height}, and the picture "
            f"{size[0]}×{size[1]}; the shapes must be the same"
        )
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _key(file: FoundFile) -> str:
    return name_key(file.path.relative_to(file.root).with_suffix("").as_posix())


def _control_place(file: FoundFile) -> Place | None:
    """The place of the image that it belongs to; None for a file in no folder of conditioning pictures."""
    *folders, name = _key(file).split("/")
    at = next((number for number, folder in enumerate(folders) if folder in FOLDERS), None)
    if at is None:
        return None
    return file.root, _bare("/".join([*folders[:at], *folders[at + 1 :], name]))


def _bare(key: str) -> str:
    """Without a folder that only says that images are in it: images/a and conditioning/a belong together."""
    return "/".join(part for part in key.split("/")[:-1] if part not in IMAGE_FOLDERS) + "/" + key.split("/")[-1]
