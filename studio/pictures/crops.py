"""Moves the crop of a picture: all its views are cut anew from the file as it was dropped."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from preprocess.crops.augment import AugmentationRules, plan_views
from preprocess.crops.crop import Window, crop_to_window, window_inside
from preprocess.dataset import Example, View
from preprocess.errors import DatasetError
from preprocess.uploads.archive import ArchiveLimits
from preprocess.uploads.collect import decode_rules
from preprocess.uploads.decoding import decode
from preprocess.uploads.fingerprints import Fingerprint
from preprocess.uploads.intake import take_in
from settings.preparation import DataConfig
from studio.pictures.edits import EditedSet

BY_HAND = "hand"
AGAIN = "prepare the pictures again, with another setting of crop"
SMALLEST_SIDE = 8.0
"""Of a crop, in pixels of the picture."""


def with_crop(
    edited: EditedSet, source: str, place: tuple[float, float, float], sources: Sequence[Path], config: DataConfig
) -> EditedSet:
    """Cut a picture at another place, at all resolutions that it is trained at. `place`: left, top and width in pixels
    of the whole picture; the height follows from the trained size. What does not fit into the picture is moved or made
    smaller. `sources`: of the preparation, with these settings.

    Raises DatasetError for a picture with a mask or a conditioning picture, which would have to be cut alike, for one
    that was upscaled, and for one that is not in the sources any more.
    """
    edited.find(source)
    for example in edited.all_of(source):
        _require_movable(example, config)
    image = _original(source, sources, config)
    if image.size != example.views[0].crop.original:
        raise DatasetError(f"{source}: the dropped file is another one now; {AGAIN}")
    return edited.changed_by(source, lambda each: _cut(each, image, place, edited.dataset.folder, config))


def _require_movable(example: Example, config: DataConfig) -> None:
    """Raises DatasetError where more than the picture itself would have to be made anew."""
    beside = {
        "a mask": any(view.mask for view in example.views),
        "a conditioning picture": any(view.control for view in example.views),
        "an upscaled copy": bool(config.upscaler) and example.views[0].crop.enlargement() > 1,
    }
    found = [name for name, has in beside.items() if has]
    if found:
        raise DatasetError(f"{example.source}: has {', '.join(found)}; to move its crop, {AGAIN}")


def _original(source: str, sources: Sequence[Path], config: DataConfig) -> Image.Image:
    """The whole picture, as the preparation read it."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in take_in(sources, Path(scratch) / "data", ArchiveLimits.of(config)).files:
            if file.name == source:
                return decode(file.path, decode_rules(config)).image
    raise DatasetError(f"{source}: is not among the dropped files any more; {AGAIN}")


def _cut(
    example: Example, image: Image.Image, place: tuple[float, float, float], folder: Path, config: DataConfig
) -> Example:
    """Write the views of one example, and return it."""
    left, top, width = place
    across, down = example.bucket
    width = max(SMALLEST_SIDE, min(width, image.width, image.height * across / down))
    window: Window = window_inside(image.size, width, width * down / across, (left, top))
    crop = crop_to_window(image.size, window, example.bucket)
    rules = AugmentationRules(config.horizontal_flip, config.augmented_views, config.crop_jitter, config.color_jitter)
    planned = list(plan_views(crop, rules, f"{config.seed} {Fingerprint.of(image).exact}"))
    views: list[View] = []
    for view, plan in zip(example.views, planned, strict=True):
        _replace(folder / view.file, plan.render(image))
        views.append(replace(view, crop=plan.crop))
    return replace(example, views=tuple(views), crop_source=BY_HAND)


def _replace(path: Path, picture: Image.Image) -> None:
    """Write a new file in place of the old one: jobs that wait in the queue share the old one by a hard link."""
    partial = path.with_name(f".{path.name}.partial.png")
    picture.save(partial, compress_level=1)
    os.replace(partial, path)
