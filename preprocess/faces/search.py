"""Runs a detector on a small copy of the image, rotated until it finds a face."""

from collections.abc import Callable, Iterable

from PIL import Image

from preprocess.dataset import FaceBox
from preprocess.faces.boxes import best_faces, enlarge, turn_back
from preprocess.faces.detector import LONGEST_SIDE

Find = Callable[[Image.Image], Iterable[FaceBox]]


def search(image: Image.Image, find: Find) -> list[FaceBox]:
    """Return the faces in the upright image, or else in the rotation by 90°, 180° or 270° with the highest score.

    `find` gets RGB with the longest side at most LONGEST_SIDE. The boxes are in pixels of `image`, best score first.
    """
    small = shrink(image)
    faces = _turned(small, find, 0) or max((_turned(small, find, turns) for turns in (1, 2, 3)), key=_best_score)
    return [enlarge(face, small.size, image.size) for face in faces]


def shrink(image: Image.Image) -> Image.Image:
    """Reduce the image to a longest side of at most LONGEST_SIDE pixels. It is never enlarged."""
    scale = LONGEST_SIDE / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _turned(small: Image.Image, find: Find, quarter_turns: int) -> list[FaceBox]:
    found = find(small.rotate(90 * quarter_turns, expand=True))
    return best_faces((turn_back(face, quarter_turns, small.size) for face in found), small.size)


def _best_score(faces: list[FaceBox]) -> float:
    return faces[0].score if faces else 0.0
