"""The mask of a whole image, computed as in the preparation, so that it can be cropped at another position."""

from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.crops.augment import PlannedView
from preprocess.crops.subject import SubjectFinder
from preprocess.crops.views import class_words_of
from preprocess.dataset import Example
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import Picture
from settings.preparation import DataConfig

ROUNDING = 8
"""Tolerance for values of a mask, of 255. Masks that differ by more are different masks."""


def whole_mask(
    example: Example, picture: Picture, mask_file: Path | None, dataset: Path, config: DataConfig
) -> Image.Image | None:
    """Return the mask of the whole image, mode "L"; None for an example without masks. `mask_file`: the user's own.

    Raises DatasetError if it differs from the mask in `dataset`: because that was edited, or is limited to the
    recurring face of all images.
    """
    stored = example.views[0].mask
    if stored is None:
        return None
    finder = SubjectFinder(config.model_copy(update={"crop": "centre"}))
    words = class_words_of(example.concept, config)
    mask = finder.find(picture, example.source, example.bucket, words, mask_file).mask
    if mask is None or not _same(PlannedView(example.views[0].crop).cut(mask), dataset / stored):
        raise DatasetError(
            f"{example.source}: its mask differs from the one computed from its file and the settings; prepare the "
            "images again, with another setting of crop"
        )
    return mask


def _same(mask: Image.Image, path: Path) -> bool:
    try:
        with Image.open(path) as stored:
            known = np.asarray(stored.convert("L"), np.int16)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path.name}: cannot be read as a mask. Prepare the images again.") from error
    made = np.asarray(mask.convert("L"), np.int16)
    return made.shape == known.shape and int(np.abs(made - known).max()) <= ROUNDING
