"""Face identity: SFace's embeddings of the largest face of each picture.

Zhong et al. 2021, "SFace". Its weights (37 MB, Apache-2) are in the OpenCV model zoo; OpenCV runs them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from settings.record import ConfigError

SIDE = 112
MARGIN = 1.2
"""Side of the crop relative to the longer side of the face box: SFace was trained on faces with chin and brow."""
WHERE_TO_GET_IT = "get face_recognition_sface_2021dec.onnx (37 MB, Apache-2) from the OpenCV model zoo"
Boxes = Callable[[Image.Image], list[Any]]


class FaceEncoder:
    """Embeds faces. `boxes` finds faces, `feature` turns a (112, 112, 3) BGR face into a vector (P,)."""

    def __init__(self, boxes: Boxes, feature: Callable[[np.ndarray], np.ndarray]) -> None:
        self._boxes, self._feature = boxes, feature

    @classmethod
    def load(cls, model: Path) -> "FaceEncoder":
        """Load SFace from its ONNX file, with the available face detector. Raises ConfigError."""
        if not model.is_file():
            raise ConfigError(f"evaluation_face_model: {model} does not exist; {WHERE_TO_GET_IT}, or leave it out")
        import cv2

        from preprocess.faces.registry import find_detector

        try:
            network = cv2.FaceRecognizerSF.create(str(model), "")
        except cv2.error as error:
            raise ConfigError(
                f"evaluation_face_model: OpenCV cannot read {model} ({error.err}); {WHERE_TO_GET_IT}"
            ) from error
        return cls(find_detector().detect, lambda face: network.feature(face)[0])

    def embed_faces(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (M, P), M ≤ N, of pictures with a face; (0, 1) when no picture has one."""
        faces = [face for image in images if (face := self._largest(image)) is not None]
        if not faces:
            return torch.empty(0, 1)
        vectors = torch.stack([torch.from_numpy(np.asarray(self._feature(face), np.float32)) for face in faces])
        return functional.normalize(vectors, dim=-1)

    def _largest(self, image: Image.Image) -> np.ndarray | None:
        boxes = self._boxes(image.convert("RGB"))
        if not boxes:
            return None
        box = max(boxes, key=lambda one: one.width * one.height)
        half = MARGIN * max(box.width, box.height) / 2
        x, y = box.left + box.width / 2, box.top + box.height / 2
        square = tuple(round(value) for value in (x - half, y - half, x + half, y + half))
        face = image.convert("RGB").crop(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return np.asarray(face)[:, :, ::-1].copy()


def face_identity(samples: Tensor, references: Tensor, count: int) -> float | None:
    """Return the mean cosine of the samples' faces (M, P) and the references' (K, P). A sample without a face counts as
    0.

    `count`: the number of samples. None where no reference shows a face.
    """
    if len(references) == 0:
        return None
    if len(samples) == 0:
        return 0.0
    return float((samples @ references.T).mean()) * len(samples) / count
