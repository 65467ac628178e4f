"""Selects an available face detector. Its packages are imported only when it is used."""

import importlib.util
import os
from pathlib import Path
from typing import Literal

from preprocess.errors import SetupError
from preprocess.faces.detector import FaceDetector

DetectorName = Literal["auto", "yunet", "yuface", "haar"]
MODEL_VARIABLE = "FACE_DETECTOR_MODEL"


def find_detector(name: DetectorName = "auto", model: Path | None = None) -> FaceDetector:
    """Return the detector of that name. `auto`: YuNet when its model file is available, else yuface, else Haar.

    `model` is YuNet's ONNX file; without it the environment variable FACE_DETECTOR_MODEL may name one. Raises
    SetupError, with a remedy, for a requested detector that is not available, for a model file that is missing or
    altered (also with `auto`), and for a model file given to a detector that takes none.
    """
    if model and name in ("yuface", "haar"):
        raise SetupError(f'{model}: the face detector "{name}" has no model file; choose "yunet" or "auto"')
    model = model or _model_of_environment()
    match name:
        case "yunet":
            return _yunet(model)
        case "yuface":
            return _yuface()
        case "haar":
            return _haar()
    if model:
        return _yunet(model)
    return _yuface() if importlib.util.find_spec("yuface") else _haar()


def _model_of_environment() -> Path | None:
    path = os.environ.get(MODEL_VARIABLE)
    return Path(path) if path else None


def _yunet(model: Path | None) -> FaceDetector:
    if model is None:
        raise SetupError(f'the face detector "yunet" needs its ONNX file; set {MODEL_VARIABLE} to it, or choose "auto"')
    _need_opencv()
    from preprocess.faces.yunet import YuNetDetector

    return YuNetDetector(model)


def _yuface() -> FaceDetector:
    from preprocess.faces.yuface import YuFaceDetector

    return YuFaceDetector()


def _haar() -> FaceDetector:
    _need_opencv()
    from preprocess.faces.haar import HaarDetector

    return HaarDetector()


def _need_opencv() -> None:
    if not importlib.util.find_spec("cv2"):
        raise SetupError("faces cannot be detected without OpenCV; pip install 'opencv-python-headless<5'")
