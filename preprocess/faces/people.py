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
    """The faces of an image, best score first. `recurring`: the one that recurs in the concept's images; None if it is
    not among them."""

    faces: tuple[FaceBox, ...]
    recurring: FaceBox | None


Named = tuple[str, Path]
"""An image's name and its file."""
Found = tuple[tuple[FaceBox, ...], np.ndarray]
"""The faces of an image, and their unit vectors (n, P)."""


def recognition_model(config: DataConfig) -> Path | None:
    """Return the file of the setting, otherwise of the environment variable FACE_RECOGNITION_MODEL."""
    named = os.environ.get(MODEL_VARIABLE)
    return config.face_recognition_model or (Path(named) if named else None)


def face_look(config: DataConfig) -> "FaceLook":
    """Load the networks that detect and embed faces for a ControlNet. Raises SetupError if a model is missing."""
    model = recognition_model(config)
    if model is None:
        raise SetupError(
            f"control: faces needs SFace's file; set face_recognition_model or {MODEL_VARIABLE} to it; "
            f"{WHERE_TO_GET_IT}"
        )
    return FaceLook(config, model, DecodeRules())


def find_people(
    concepts: Mapping[str, Sequence[Named]], config: DataConfig, model: Path, rules: DecodeRules, workers: Workers
) -> Generator[StageProgress, None, tuple[dict[str, FacesOfPicture], list[str]]]:
    """Return the faces of each image by its name, and a warning for each concept without a recurring face.

    `concepts`: the images of each trigger word. Raises SetupError for a model that cannot be loaded.
    """
    pictures = [named for each in concepts.values() for named in each]
    look = FaceLook(config, model, rules)
    work: Work[Named, Found] = Work(look, partial(_looking, config, model, rules))
    found: dict[str, Found] = {}
    for (name, _), result in zip(pictures, workers.map(work, pictures, config.num_workers), strict=True):
        found[name] = result
        yield StageProgress("detecting the recurring face", len(found), len(pictures))
    people: dict[str, FacesOfPicture] = {}
    warnings: list[str] = []
    for trigger, named in concepts.items():
        own = {name: found[name] for name, _ in named}
        places = recurring_face([vectors for _, vectors in own.values()])
        if places is None:
            if any(len(faces) > 1 for faces, _ in own.values()):
                warnings.append(f"{trigger}: no face recurs in its images; the most prominent face of each is used")
            continue
        for (name, (faces, _)), place in zip(own.items(), places, strict=True):
            people[name] = FacesOfPicture(faces, None if place is None else faces[place])
    return people, warnings


class FaceLook:
    """Detects and embeds the faces of an image. The networks are used by one thread at a time."""

    def __init__(self, config: DataConfig, model: Path, rules: DecodeRules) -> None:
        self._detector = find_detector(config.face_detector, config.face_detector_model)
        self._feature, self._rules, self._lock = load_sface(model), rules, Lock()

    def __call__(self, named: Named) -> Found:
        return self.embed(decode(named[1], self._rules).image)

    def embed(self, image: Image.Image) -> Found:
        """Return the faces of an RGB image, best score first, and their vectors."""
        with self._lock:
            faces = tuple(self._detector.detect(image))
            vectors = [np.asarray(self._feature(face_pixels(image, face)), np.float64) for face in faces]
        if not vectors:
            return (), np.empty((0, 1))
        stacked = np.stack(vectors)
        return faces, stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)


def _looking(config: DataConfig, model: Path, rules: DecodeRules) -> AbstractContextManager[FaceLook]:
    """Open a `FaceLook` in another process, with its own networks."""
    return nullcontext(FaceLook(config, model, rules))
