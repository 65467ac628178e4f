"""Chooses the subject among several faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt

from preprocess.dataset import FaceBox

SIMILAR_SIZE = 0.6  # ratio of sides from which another face could also be the subject


@dataclass(frozen=True)
class ChosenFace:
    """The chosen face. `warnings` contain reason and remedy; the caller adds the file name."""

    face: FaceBox
    warnings: tuple[str, ...]


def choose_face(faces: Sequence[FaceBox], image_size: tuple[int, int]) -> ChosenFace:
    """Return the face with the greatest √area · score · (1 - ½ distance to the image's middle / half its diagonal).

    `image_size`: (width, height) in the pixels of the boxes. Warns of others of similar size. Raises ValueError when
    there are no faces.
    """
    chosen = max(faces, key=lambda face: _prominence(face, image_size))
    return ChosenFace(chosen, _warnings(chosen, faces))


def _prominence(face: FaceBox, image_size: tuple[int, int]) -> float:
    across = face.left + face.width / 2 - image_size[0] / 2
    down = face.top + face.height / 2 - image_size[1] / 2
    remoteness = hypot(across, down) / (hypot(*image_size) / 2)
    return _side(face) * face.score * (1 - 0.5 * remoteness)


def _side(face: FaceBox) -> float:
    return sqrt(face.width * face.height)


def _warnings(chosen: FaceBox, faces: Sequence[FaceBox]) -> tuple[str, ...]:
    rivals = sum(_side(face) > SIMILAR_SIZE * _side(chosen) for face in faces) - 1
    if not rivals:
        return ()
    middle = f"({chosen.left + chosen.width / 2:.0f}, {chosen.top + chosen.height / 2:.0f})"
    return (
        f"{rivals + 1} faces of similar size; the one around pixel {middle} is used as the subject; "
        "crop the image to one person if that is wrong",
    )
