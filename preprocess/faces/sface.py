"""SFace, a face recognition network run by OpenCV: an embedding for each face.

Zhong et al. 2021, "SFace". Its weights (37 MB, Apache-2) are in the OpenCV model zoo, and never downloaded here.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from preprocess.dataset import FaceBox
from preprocess.errors import SetupError

SIDE = 112
MARGIN = 1.2
"""Side of the crop relative to the longer side of the face box: SFace was trained on faces with chin and brow."""
WHERE_TO_GET_IT = "get face_recognition_sface_2021dec.onnx (37 MB, Apache-2) from the OpenCV model zoo"

Feature = Callable[[np.ndarray], np.ndarray]
"""Turns a face (112, 112, 3) in BGR into a vector (P,)."""


def load_sface(model: Path) -> Feature:
    """Load the network from its ONNX file. Raises SetupError."""
    if not model.is_file():
        raise SetupError(f"{model} does not exist; {WHERE_TO_GET_IT}, or leave face_recognition_model out")
    import cv2

    try:
        network = cv2.FaceRecognizerSF.create(str(model), "")
    except cv2.error as error:
        raise SetupError(f"OpenCV cannot read {model} ({error.err}); {WHERE_TO_GET_IT}") from error
    return lambda face: np.asarray(network.feature(face)[0])


def face_pixels(image: Image.Image, box: FaceBox) -> np.ndarray:
    """Cut the face out of an image, as the network reads it: uint8 (112, 112, 3), BGR."""
    half = MARGIN * max(box.width, box.height) / 2
    x, y = box.left + box.width / 2, box.top + box.height / 2
    left, top, right, bottom = (round(value) for value in (x - half, y - half, x + half, y + half))
    face = image.convert("RGB").crop((left, top, right, bottom)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(face)[:, :, ::-1].copy()
