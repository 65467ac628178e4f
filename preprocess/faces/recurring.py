"""Finds the face that recurs in a concept's images, which is the subject if they show several people."""

from collections.abc import Sequence

import numpy as np

SAME_PERSON = 0.363
"""Smallest cosine similarity of two faces of one person, as OpenCV recommends for SFace."""
FEWEST_PICTURES = 2


def recurring_face(pictures: Sequence[np.ndarray]) -> list[int | None] | None:
    """Return the index of the recurring face in each image, None for images without it.

    `pictures`: unit vectors (n, P) of the faces of each image. The recurring face is the one with a similar face in the
    most other images; of equal ones, the most similar. Returns None if no face is in at least two images.
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
