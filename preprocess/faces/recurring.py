"""Finds the face that recurs in a concept's images, which is the subject if they show several people."""

from collections.abc import Sequence

import numpy as np

SAME_PERSON = 0.363
"""Least cosine of two faces of one person, as OpenCV gives it for SFace."""
FEWEST_PICTURES = 2


def recurring_face(pictures: Sequence[np.ndarray]) -> list[int | None] | None:
    """Return the number of the recurring face in each picture, None where it is not in it.

    `pictures`: unit vectors (n, P) of the faces of each picture. The face is the one with a like one in the most other
    pictures, then the one that is most like them. Returns None where no face is in at least two pictures.
    """
    best: tuple[int, float] = (0, 0.0)
    person: np.ndarray | None = None
    for number, faces in enumerate(pictures):
        for face in faces:
            others = [each for other, each in enumerate(pictures) if other != number and len(each)]
            alike = [cosine for each in others if (cosine := float((each @ face).max())) >= SAME_PERSON]
            if (len(alike), sum(alike)) > best:
                best, person = (len(alike), sum(alike)), face
    if person is None or best[0] + 1 < FEWEST_PICTURES:
        return None
    places = [_place(faces, person) for faces in pictures]
    found = [faces[place] for faces, place in zip(pictures, places, strict=True) if place is not None]
    mean = np.mean(found, axis=0)
    return [_place(faces, mean / np.linalg.norm(mean)) for faces in pictures]


def _place(faces: np.ndarray, person: np.ndarray) -> int | None:
    if not len(faces):
        return None
    cosines = faces @ person
    place = int(cosines.argmax())
    return place if cosines[place] >= SAME_PERSON else None
