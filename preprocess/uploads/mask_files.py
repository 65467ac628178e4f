"""Finds masks beside images, in other trainers' layouts: x-masklabel.png, x.mask.png, x_mask.png, masks/x.png."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from preprocess.uploads.intake import FoundFile
from preprocess.uploads.text_files import name_key

MASK_ENDING = re.compile(r"(.+?)[-_. ](?:mask ?label|mask|alpha ?mask|segmentation)$")
MASK_FOLDERS = {"mask", "masks", "masklabel", "masklabels", "mask_images", "image_masks", "alpha_masks"}
IMAGE_FOLDERS = ("image", "images", "img", "imgs", "photos", "pictures", "data", "train")


@dataclass(frozen=True)
class SortedMasks:
    """`images`: all files but masks. `masks`: by the name of their image. `orphans`: files in a mask folder without an
    image.

    `doubled`: further masks of an image that has one. `unpaired`: images that are named like masks.
    """

    images: list[FoundFile]
    masks: Mapping[str, FoundFile]
    orphans: list[FoundFile]
    doubled: list[FoundFile]
    unpaired: list[FoundFile]


def sort_masks(files: Sequence[FoundFile]) -> SortedMasks:
    """Separate masks from images. A file that is named like a mask but has no image is an image."""
    by_place = {(file.root, _key(file)): file for file in files}
    masks: dict[str, FoundFile] = {}
    taken: set[str] = set()
    folders: set[tuple[Path, str]] = set()
    doubled: list[FoundFile] = []
    for file in files:
        image = next((by_place[place] for place in _places(file) if place in by_place), None)
        if image is None or image.name == file.name:
            continue
        taken.add(file.name)
        if masks.setdefault(image.name, file) is not file:
            doubled.append(file)
        if (folder := _mask_folder(file)) is not None and _mask_folder(image) != folder:
            folders.add((file.root, folder))
    orphans = [
        file
        for file in files
        if file.name not in taken and (folder := _mask_folder(file)) is not None and (file.root, folder) in folders
    ]
    left = taken | {file.name for file in orphans}
    images = [file for file in files if file.name not in left]
    orphans += [mask for name, mask in masks.items() if name in left]  # the mask of a mask
    unpaired = [file for file in images if MASK_ENDING.fullmatch(PurePosixPath(_key(file)).name)]
    return SortedMasks(
        images, {name: mask for name, mask in masks.items() if name not in left}, orphans, doubled, unpaired
    )


def _key(file: FoundFile) -> str:
    """Return the path below the root, without the suffix, as a `name_key`."""
    return name_key(file.path.relative_to(file.root).with_suffix("").as_posix())


def _mask_folder(file: FoundFile) -> str | None:
    """Return the path of the mask folder that contains the file; None without one."""
    parts = _key(file).split("/")
    index = next((index for index, part in enumerate(parts[:-1]) if part in MASK_FOLDERS), None)
    return None if index is None else "/".join(parts[: index + 1])


def _places(file: FoundFile) -> Iterator[tuple[Path, str]]:
    """Yield the places where the image of this mask may be, the nearest first."""
    key = _key(file)
    stem = PurePosixPath(key).name
    folder = key[: -len(stem)]
    match = MASK_ENDING.fullmatch(stem)
    stems = [match[1], stem] if match else [stem]
    if match:
        yield file.root, folder + match[1]
        yield file.root, folder + PurePosixPath(match[1]).stem
    parts = folder.rstrip("/").split("/")
    for index, part in enumerate(parts):
        if part in MASK_FOLDERS:
            before, after = parts[:index], parts[index + 1 :]
            for name in stems:
                yield file.root, "/".join([*before, *after, name])
                yield from ((file.root, "/".join([*before, other, *after, name])) for other in IMAGE_FOLDERS)
