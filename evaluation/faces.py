"""Face identity: SFace's embeddings of the largest face in each image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from preprocess.errors import DatasetError
from preprocess.faces.sface import Feature, face_pixels, load_sface
from settings.record import ConfigError

Boxes = Callable[[Image.Image], list[Any]]


class FaceEncoder:
    """Embeds faces. `boxes` finds faces, `feature` turns a (112, 112, 3) BGR face into a vector (P,)."""

    def __init__(self, boxes: Boxes, feature: Feature) -> None:
        self._boxes, self._feature = boxes, feature

    @classmethod
    def load(cls, model: Path) -> "FaceEncoder":
        """Load SFace from its ONNX file, with the available face detector. Raises ConfigError."""
        from preprocess.faces.registry import find_detector

        try:
            feature = load_sface(model)
        except DatasetError as error:
            raise ConfigError(f"evaluation_face_model: {error}") from error
        return cls(find_detector().detect, feature)

    def embed_faces(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (M, P), M ≤ N, of images with a face; (0, 1) if no image has one."""
        faces = [face for image in images if (face := self._largest(image)) is not None]
        if not faces:
            return torch.empty(0, 1)
        vectors = torch.stack([torch.from_numpy(np.asarray(self._feature(face), np.float32)) for face in faces])
        return functional.normalize(vectors, dim=-1)

    def _largest(self, image: Image.Image) -> np.ndarray | None:
        boxes = self._boxes(image.convert("RGB"))
        if not boxes:
            return None
        return face_pixels(image, max(boxes, key=lambda one: one.width * one.height))


def face_identity(samples: Tensor, references: Tensor, count: int) -> float | None:
    """Return the mean cosine of the samples' faces (M, P) and the references' (K, P). A sample without a face counts as
    0.

    `count`: the number of samples. None if no reference shows a face.
    """
    if len(references) == 0:
        return None
    if len(samples) == 0:
        return 0.0
    return float((samples @ references.T).mean()) * len(samples) / count
