"""Moves the crop of an image: all its views are cropped again from the uploaded file."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from preprocess.crops.augment import AugmentationRules, PlannedView, plan_views
from preprocess.crops.crop import Window, crop_to_window, window_inside
from preprocess.crops.views import lost_subject
from preprocess.dataset import Example, View
from preprocess.errors import DatasetError
from preprocess.uploads.archive import ArchiveLimits
from preprocess.uploads.collect import decode_rules
from preprocess.uploads.decoding import decode, is_image_name
from preprocess.uploads.fingerprints import Fingerprint
from preprocess.uploads.intake import take_in
from preprocess.uploads.mask_files import sort_masks
from settings.preparation import DataConfig
from studio.pictures.edits import EditedSet
from studio.pictures.masks import whole_mask

BY_HAND = "hand"
AGAIN = "prepare the images again, with another setting of crop"
SMALLEST_SIDE = 8.0
"""Smallest side of a crop, in pixels of the image."""


@dataclass(frozen=True)
class Whole:
    """A whole image. `mask`: of its size, mode "L"."""

    image: Image.Image
    mask: Image.Image | None


def with_crop(
    edited: EditedSet, source: str, place: tuple[float, float, float], sources: Sequence[Path], config: DataConfig
) -> EditedSet:
    """Crop an image at another position, for all its resolutions. `place`: left, top and width in pixels of the whole
    image; the height follows from the trained size. A crop that exceeds the image is moved or reduced. `sources`: of
    the preparation, with these settings.

    Masks are cropped in the same way. Raises DatasetError for an image with a conditioning image, for an upscaled one,
    for one that is no longer in the sources, for a mask that cannot be computed again, and for a position where the
    mask is empty.
    """
    edited.find(source)
    for example in edited.all_of(source):
        _require_movable(example, config)
    whole = _original(example, sources, edited.dataset.folder, config)
    planned = {each.bucket: _planned(each, whole, place, config) for each in edited.all_of(source)}
    if any(_lost_subject(source, views, whole) for views in planned.values()):
        raise DatasetError(f"{source}: its mask is empty there, or in one of the views; choose another position")
    return edited.changed_by(source, lambda each: _cut(each, whole, planned[each.bucket], edited.dataset.folder))


def _require_movable(example: Example, config: DataConfig) -> None:
    """Raises DatasetError if more than the image itself would have to be computed again."""
    beside = {
        "a conditioning image": any(view.control for view in example.views),
        "an upscaled copy": bool(config.upscaler) and example.views[0].crop.enlargement() > 1,
    }
    found = [name for name, has in beside.items() if has]
    if found:
        raise DatasetError(f"{example.source}: has {', '.join(found)}; to move its crop, {AGAIN}")


def _original(example: Example, sources: Sequence[Path], dataset: Path, config: DataConfig) -> Whole:
    """Return the whole image as decoded in the preparation, with its mask."""
    source = example.source
    with tempfile.TemporaryDirectory() as scratch:
        files = take_in(sources, Path(scratch) / "data", ArchiveLimits.of(config)).files
        for file in files:
            if file.name == source:
                break
        else:
            raise DatasetError(f"{source}: is no longer among the uploaded files; {AGAIN}")
        picture = decode(file.path, decode_rules(config))
        if picture.image.size != example.views[0].crop.original:
            raise DatasetError(f"{source}: the uploaded file has changed; {AGAIN}")
        masks = sort_masks([each for each in files if is_image_name(each.path)]).masks if config.uses_mask_files else {}
        mask_file = masks[source].path if source in masks else None
        return Whole(picture.image, whole_mask(example, picture, mask_file, dataset, config))


def _planned(
    example: Example, whole: Whole, place: tuple[float, float, float], config: DataConfig
) -> list[PlannedView]:
    """Return the views of one example at the new position."""
    left, top, width = place
    across, down = example.bucket
    image = whole.image
    width = max(SMALLEST_SIDE, min(width, image.width, image.height * across / down))
    window: Window = window_inside(image.size, width, width * down / across, (left, top))
    crop = crop_to_window(image.size, window, example.bucket)
    rules = AugmentationRules(config.horizontal_flip, config.augmented_views, config.crop_jitter, config.color_jitter)
    return list(plan_views(crop, rules, f"{config.seed} {Fingerprint.of(image).exact}"))


def _cut(example: Example, whole: Whole, planned: Sequence[PlannedView], folder: Path) -> Example:
    """Write the views of one example, and return it, without an earlier warning about an empty mask."""
    settled = _lost_subject(example.source, [PlannedView(view.crop, view.flipped) for view in example.views], whole)
    views: list[View] = []
    for view, plan in zip(example.views, planned, strict=True):
        _replace(folder / view.file, plan.render(whole.image))
        if view.mask is not None and whole.mask is not None:
            _replace(folder / view.mask, plan.cut(whole.mask))
        views.append(replace(view, crop=plan.crop))
    warnings = tuple(warning for warning in example.warnings if warning not in settled)
    return replace(example, views=tuple(views), crop_source=BY_HAND, warnings=warnings)


def _lost_subject(source: str, views: Sequence[PlannedView], whole: Whole) -> tuple[str, ...]:
    return () if whole.mask is None else lost_subject(source, views, whole.mask)


def _replace(path: Path, picture: Image.Image) -> None:
    """Replace the file by a new one instead of changing it: queued jobs have a hard link to the old one."""
    partial = path.with_name(f".{path.name}.partial.png")
    picture.save(partial, compress_level=1)
    os.replace(partial, path)
