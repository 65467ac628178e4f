"""Stand-ins for the face networks: a face is a rectangle in a person's colour, and each person has a vector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from preprocess.dataset import FaceBox
from settings.preparation import FACE_FEATURES

PEOPLE = {"anna": (220, 0, 0), "ben": (0, 220, 0), "cleo": (0, 0, 220)}
NEAR = 90
"""Largest distance of a pixel's levels from the colour that it belongs to."""

Box = tuple[int, int, int, int]


def picture_of(faces: Sequence[tuple[str, Box]], size: tuple[int, int]) -> Image.Image:
    """Return a dark image with the faces as boxes (left, top, right, bottom); right and bottom are not included."""
    image = Image.new("RGB", size, (30, 30, 30))
    for person, (left, top, right, bottom) in faces:
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=PEOPLE[person])
    return image


def where(image: Image.Image) -> dict[str, Box]:
    """Return the box of each person who is visible."""
    pixels = np.asarray(image.convert("RGB"), int)
    found = {}
    for person, colour in PEOPLE.items():
        rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < NEAR)
        if len(rows):
            found[person] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return found


class Detector:
    name = "yunet"

    def detect(self, image: Image.Image) -> list[FaceBox]:
        return [
            FaceBox(float(left), float(top), float(right - left), float(bottom - top), 0.9)
            for left, top, right, bottom in where(image).values()
        ]


def feature(face: np.ndarray) -> np.ndarray:
    """Map a (112, 112, 3) BGR image, mostly filled by a face, to an embedding (P,), not of length 1."""
    colour = face[56, 56][::-1].astype(int)
    number = min(range(len(PEOPLE)), key=lambda each: np.abs(colour - list(PEOPLE.values())[each]).sum())
    return 7 * vector(list(PEOPLE)[number])


def vector(person: str) -> np.ndarray:
    """Return the person's unit vector."""
    made = np.zeros(FACE_FEATURES, np.float32)
    made[[2 * list(PEOPLE).index(person), -1]] = 0.6, 0.8
    return made


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Replace the networks by the stand-ins. Returns the path to give as `face_recognition_model`."""
    for module in ("preprocess.faces.people", "preprocess.faces.registry"):
        monkeypatch.setattr(f"{module}.find_detector", lambda *names: Detector())
    monkeypatch.setattr("preprocess.faces.people.load_sface", lambda path: feature)
    (folder / "sface.onnx").touch()
    return folder / "sface.onnx"
