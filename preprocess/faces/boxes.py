"""Converts face boxes from the detector's small, rotated copy to the original image."""

from collections.abc import Iterable, Sequence

from preprocess.dataset import FaceBox
from preprocess.faces.detector import MIN_SCORE, MIN_SHARE


def to_face(box: Sequence[float], score: float) -> FaceBox:
    """Build a FaceBox from a detector's (left, top, width, height), of any number type."""
    left, top, width, height = map(float, box)
    return FaceBox(left, top, width, height, float(score))


def enlarge(face: FaceBox, small: tuple[int, int], whole: tuple[int, int]) -> FaceBox:
    """Scale a box from a copy of size `small` to the image of size `whole`; both are (width, height)."""
    across, down = whole[0] / small[0], whole[1] / small[1]
    return FaceBox(face.left * across, face.top * down, face.width * across, face.height * down, face.score)


def turn_back(face: FaceBox, quarter_turns: int, size: tuple[int, int]) -> FaceBox:
    """Rotate a box back that was found after `quarter_turns` anticlockwise. `size`: of the unrotated image."""
    for turn in reversed(range(quarter_turns)):
        width = size[turn % 2]
        face = FaceBox(width - face.top - face.height, face.left, face.height, face.width, face.score)
    return face


def clip(face: FaceBox, size: tuple[int, int]) -> FaceBox:
    """Clip the box to an image of `size` (width, height)."""
    left, top = max(0.0, face.left), max(0.0, face.top)
    right, bottom = min(size[0], face.left + face.width), min(size[1], face.top + face.height)
    return FaceBox(left, top, max(0.0, right - left), max(0.0, bottom - top), face.score)


def best_faces(found: Iterable[FaceBox], size: tuple[int, int]) -> list[FaceBox]:
    """Return the faces with sufficient score and size in an image of `size`, clipped to it, best score first."""
    clipped = [clip(face, size) for face in found]
    smallest = MIN_SHARE * min(size)
    kept = [face for face in clipped if face.score >= MIN_SCORE and max(face.width, face.height) >= smallest]
    return sorted(kept, key=lambda face: face.score, reverse=True)
