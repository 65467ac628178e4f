"""Finds the recurring face of each concept, before images are cropped around it."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from preprocess.dataset import FaceBox
from preprocess.errors import SetupError
from preprocess.faces.recurring import recurring_face
from preprocess.faces.registry import find_detector
from preprocess.faces.sface import WHERE_TO_GET_IT, face_pixels, load_sface
from preprocess.progress import StageProgress
from preprocess.uploads.decoding import DecodeRules, decode
from preprocess.workers.workers import Work, Workers
from settings.preparation import DataConfig

MODEL_VARIABLE = "FACE_RECOGNITION_MODEL"


@dataclass(frozen=True)
class FacesOfPicture:
    """The faces of a picture, best score first. `recurring`: the one that recurs over the concept's pictures; None
    where it is not among them."""

    faces: tuple[FaceBox, ...]
    recurring: FaceBox | None


Named = tuple[str, Path]
"""A picture's name and its file."""
Found = tuple[tuple[FaceBox, ...], np.ndarray]
"""The faces of a picture, and their unit vectors (n, P)."""


def recognition_model(config: DataConfig) -> Path | None:
    """The file of the setting, or else of the environment variable FACE_RECOGNITION_MODEL."""
    named = os.environ.get(MODEL_VARIABLE)
    return config.face_recognition_model or (Path(named) if named else None)


def face_look(config: DataConfig) -> "FaceLook":
    """Load what finds and embeds faces for a ControlNet. Raises SetupError where a model is not given or not read."""
    model = recognition_model(config)
    if model is None:
        raise SetupError(
            f"control: faces needs SFace's file: name it in face_recognition_model or {MODEL_VARIABLE}; "
            f"{WHERE_TO_GET_IT}"
        )
    return FaceLook(config, model, DecodeRules())


def find_people(
    concepts: Mapping[str, Sequence[Named]], config: DataConfig, model: Path, rules: DecodeRules, workers: Workers
) -> Generator[StageProgress, None, tuple[dict[str, FacesOfPicture], list[str]]]:
    """Return the faces of each picture by its name, and a warning for each concept without a recurring face.

    `concepts`: the pictures of each trigger word. Raises SetupError for a model that cannot be loaded.
    """
    pictures = [named for each in concepts.values() for named in each]
    look = FaceLook(config, model, rules)
    work: Work[Named, Found] = Work(look, partial(_looking, config, model, rules))
    found: dict[str, Found] = {}
    for (name, _), result in zip(pictures, workers.map(work, pictures, config.num_workers), strict=True):
        found[name] = result
        yield StageProgress("looking for the recurring face", len(found), len(pictures))
    people: dict[str, FacesOfPicture] = {}
    warnings: list[str] = []
    for trigger, named in concepts.items():
        own = {name: found[name] for name, _ in named}
        places = recurring_face([vectors for _, vectors in own.values()])
        if places is None:
            if any(len(faces) > 1 for faces, _ in own.values()):
                warnings.append(f"{trigger}: no face recurs over its pictures; the most prominent one of each is taken")
            continue
        for (name, (faces, _)), place in zip(own.items(), places, strict=True):
            people[name] = FacesOfPicture(faces, None if place is None else faces[place])
    return people, warnings


class FaceLook:
    """Finds and embeds the faces of a picture. The networks are used by one thread at a time."""

    def __init__(self, config: DataConfig, model: Path, rules: DecodeRules) -> None:
        self._detector = find_detector(config.face_detector, config.face_detector_model)
        self._feature, self._rules, self._lock = load_sface(model), rules, Lock()

    def __call__(self, named: Named) -> Found:
        return self.embed(decode(named[1], self._rules).image)

    def embed(self, image: Image.Image) -> Found:
        """The faces of a picture in RGB, best score first, and their vectors."""
        with self._lock:
            faces = tuple(self._detector.detect(image))
            vectors = [np.asarray(self._feature(face_pixels(image, face)), np.float64) for face in faces]
        if not vectors:
            return (), np.empty((0, 1))
        stacked = np.stack(vectors)
        return faces, stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)


def _looking(config: DataConfig, model: Path, rules: DecodeRules) -> AbstractContextManager[FaceLook]:
    """In another process, with its own networks."""
    return nullcontext(FaceLook(config, model, rules))
