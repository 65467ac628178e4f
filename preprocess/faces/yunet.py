"""YuNet, a face network of 75,856 weights run by OpenCV. Finds faces at any angle, upright ones best.

Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20 (2023). Its weights are
a separate file of 233 kB under the MIT licence, which OpenCV does not include and this package never downloads.
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from preprocess.dataset import FaceBox
from preprocess.errors import SetupError
from preprocess.faces.boxes import to_face
from preprocess.faces.detector import LONGEST_SIDE, MIN_SCORE
from preprocess.faces.search import search

WHERE_TO_GET_IT = "get face_detection_yunet_2023mar.onnx (233 kB) from the OpenCV model zoo"
CHECKSUMS = {  # sha256 by file name, as the OpenCV model zoo states them
    "face_detection_yunet_2023mar.onnx": "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
}


class YuNetDetector:
    """`model`: the ONNX file. Raises SetupError when it is missing, altered or not a YuNet."""

    name = "yunet"

    def __init__(self, model: Path) -> None:
        weights = np.frombuffer(read_model(model), np.uint8)
        size = (LONGEST_SIDE, LONGEST_SIDE)
        try:
            self._network = cv2.FaceDetectorYN.create(
                "onnx", weights, np.empty(0, np.uint8), size, score_threshold=MIN_SCORE
            )
        except cv2.error as error:
            raise SetupError(f"{model}: OpenCV cannot read this network ({error.err}); {WHERE_TO_GET_IT}") from error

    def detect(self, image: Image.Image) -> list[FaceBox]:
        """As `FaceDetector.detect`."""
        return search(image, self._find)

    def _find(self, small: Image.Image) -> list[FaceBox]:
        self._network.setInputSize(small.size)
        _, rows = self._network.detect(np.asarray(small)[:, :, ::-1].copy())  # OpenCV expects BGR
        # a row is left, top, width, height, five landmarks as (x, y), score
        return [] if rows is None else [to_face(row[:4], row[14]) for row in rows]


def read_model(model: Path) -> bytes:
    """Read the model file. Raises SetupError when it is missing, or when its checksum does not match its name."""
    if not model.is_file():
        raise SetupError(f"{model}: the model file of the face detector does not exist; {WHERE_TO_GET_IT}")
    data = model.read_bytes()
    expected = CHECKSUMS.get(model.name)
    actual = hashlib.sha256(data).hexdigest()
    if expected and actual != expected:
        raise SetupError(
            f"{model}: its sha256 is {actual[:12]}…, not {expected[:12]}…: it is damaged, altered, or only a git-lfs "
            f"pointer ({len(data)} bytes); {WHERE_TO_GET_IT}"
        )
    return data
