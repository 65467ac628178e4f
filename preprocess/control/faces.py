"""Faces as the condition of a ControlNet: their positions in a view, and their embeddings.

The file of a view holds one tensor `faces` (N, 4 + P), fp32: left, top, right and bottom as fractions of the view's
sides, then a unit vector. Rows of zeros are padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from preprocess.crops.augment import PlannedView
from preprocess.crops.crop import Window
from preprocess.dataset import FACES_SUFFIX, View
from preprocess.errors import DatasetError
from preprocess.faces.people import Found
from settings.preparation import FACE_FEATURES

FACES = "faces"
CORNERS = 4
WHOLE = Window(0.0, 0.0, 1.0, 1.0)


class FaceConditions:
    """Writes the faces of each view into `output`, at most `most`. `look`: detects and embeds the faces of an image."""

    def __init__(self, look: Callable[[Image.Image], Found], most: int, output: Path) -> None:
        self._look, self._most, self._output = look, most, output

    def write(
        self, views: Sequence[View], planned: Sequence[PlannedView], picture: Image.Image, name: str
    ) -> tuple[list[View], tuple[str, ...]]:
        """Return the views with their files, and a warning if the plain view shows no face.

        `picture`: the whole image, in which faces are detected once. Raises DatasetError for vectors of another length.
        """
        faces = as_fractions(self._look(picture), picture.size)
        made, counts = [], []
        for view, plan in zip(views, planned, strict=True):
            seen = within(mirrored(faces) if plan.flipped else faces, _share(plan))[: self._most]
            counts.append(len(seen))
            control = view.file.replace("images/", "conditioning/", 1).removesuffix(".png") + FACES_SUFFIX
            save_file({FACES: padded(seen, self._most)}, self._output / control)
            made.append(replace(view, control=control))
        return made, _missing(name, len(faces), counts[0])


def _missing(name: str, found: int, seen: int) -> tuple[str, ...]:
    if seen:
        return ()
    where = "no face was detected" if found == 0 else f"none of its {found} faces is inside the crop"
    return (f"{name}: {where}, so its condition is empty (control: faces). Crop it around a face, or remove it",)


def as_fractions(found: Found, size: tuple[int, int]) -> np.ndarray:
    """Return the rows of a file, for the faces of an image of `size` (width, height) and their unit vectors (n, P)."""
    boxes, vectors = found
    if not boxes:
        return np.empty((0, CORNERS + FACE_FEATURES), np.float32)
    if vectors.shape[1] != FACE_FEATURES:
        raise DatasetError(
            f"face_recognition_model: its embeddings have {vectors.shape[1]} numbers, and {FACE_FEATURES} are needed; "
            "get face_recognition_sface_2021dec.onnx from the OpenCV model zoo"
        )
    corners = [(box.left, box.top, box.left + box.width, box.top + box.height) for box in boxes]
    return np.concatenate([np.array(corners) / (size * 2), vectors], axis=1, dtype=np.float32)


def mirrored(faces: np.ndarray) -> np.ndarray:
    """Return the faces of the mirrored image. The embeddings do not change."""
    turned = faces.copy()
    turned[:, 0], turned[:, 2] = 1 - faces[:, 2], 1 - faces[:, 0]
    return turned


def within(faces: np.ndarray, window: Window) -> np.ndarray:
    """Return the faces whose centre is inside the window, as fractions of the window and clipped to it.

    `window`: in fractions of the image.
    """
    corner, size = np.array([window.left, window.top] * 2), np.array([window.width, window.height] * 2)
    moved = faces.copy()
    moved[:, :CORNERS] = (faces[:, :CORNERS] - corner) / size
    middle = (moved[:, :2] + moved[:, 2:CORNERS]) / 2
    kept = moved[((middle >= 0) & (middle < 1)).all(axis=1) & faces[:, CORNERS:].any(axis=1)]
    kept[:, :CORNERS] = kept[:, :CORNERS].clip(0, 1)
    return kept


def padded(faces: np.ndarray, count: int) -> np.ndarray:
    """Pad with rows of zeros to `count` rows."""
    return np.pad(faces, ((0, count - len(faces)), (0, 0)))


def read_faces(path: Path) -> np.ndarray:
    """Return the rows of a file. Raises DatasetError for a file without faces."""
    try:
        faces = load_file(path).get(FACES)
    except (SafetensorError, OSError) as error:
        raise DatasetError(f"{path.name}: cannot be read ({error}); prepare the images again") from error
    if faces is None or faces.ndim != 2 or faces.shape[1] != CORNERS + FACE_FEATURES or not np.isfinite(faces).all():
        raise DatasetError(f"{path.name}: contains no faces; prepare the images again")
    return np.asarray(faces, np.float32)


def _share(plan: PlannedView) -> Window:
    """Return the view's window as fractions of the whole image."""
    window, (width, height) = plan.crop.window(), plan.crop.original
    return Window(window.left / width, window.top / height, window.width / width, window.height / height)
