"""yuface: the network of libfacedetection compiled into a Python wheel. Finds faces at any angle, upright ones best.

It needs no model file; wheels exist for CPython 3.8 to 3.11 only.
"""

import importlib

import numpy as np
from PIL import Image

from preprocess.dataset import FaceBox
from preprocess.errors import SetupError
from preprocess.faces.boxes import to_face
from preprocess.faces.search import search


class YuFaceDetector:
    """Raises SetupError when the package is not installed."""

    name = "yuface"

    def __init__(self) -> None:
        try:
            self._package = importlib.import_module("yuface")
        except ImportError as error:
            raise SetupError(
                f"the face detector yuface is not installed ({error}); pip install yuface on Python 3.11, "
                'or choose "yunet" or "haar"'
            ) from error

    def detect(self, image: Image.Image) -> list[FaceBox]:
        """As `FaceDetector.detect`."""
        return search(image, self._find)

    def _find(self, small: Image.Image) -> list[FaceBox]:
        pixels = np.asarray(small)[:, :, ::-1].copy()  # contiguous BGR is required
        scores, boxes, _ = self._package.detect(pixels)
        return [to_face(box, score / 100) for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)]
