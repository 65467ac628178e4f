"""Tests of face identity with a stand-in network, because the weights of SFace are not in the repository."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.faces import FaceEncoder, face_identity
from preprocess.dataset import FaceBox
from preprocess.faces.sface import SIDE
from settings.record import ConfigError


def boxes(image: Image.Image) -> list[FaceBox]:
    """Returns no face for a black image, otherwise a small one and a large one."""
    if image.getextrema() == ((0, 0), (0, 0), (0, 0)):
        return []
    return [FaceBox(0, 0, 4, 4, 0.9), FaceBox(20, 20, 30, 40, 0.9)]


def feature(face: np.ndarray) -> np.ndarray:
    assert face.shape == (SIDE, SIDE, 3)
    return face[SIDE // 2, SIDE // 2].astype(np.float32)  # the middle of the face, in BGR


def picture(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (80, 80), (9, 9, 9))
    image.paste(colour, (20, 20, 50, 60))
    return image


def test_the_largest_face_is_embedded_and_pictures_without_one_count_nothing() -> None:
    encoder = FaceEncoder(boxes, feature)
    red, blue, black = picture((255, 0, 0)), picture((0, 0, 255)), Image.new("RGB", (80, 80))
    faces = encoder.embed_faces([red, black, blue])
    assert faces.tolist() == [[0, 0, 1], [1, 0, 0]]
    reds = encoder.embed_faces([red])
    assert face_identity(reds, reds, 1) == 1.0
    assert face_identity(encoder.embed_faces([red, black]), reds, 2) == 0.5
    assert face_identity(encoder.embed_faces([blue]), reds, 1) == 0.0
    assert face_identity(encoder.embed_faces([black]), reds, 1) == 0.0
    assert face_identity(reds, encoder.embed_faces([black]), 1) is None


def test_a_model_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.onnx does not exist; get face_recognition_sface"):
        FaceEncoder.load(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ConfigError, match="OpenCV cannot read"):
        FaceEncoder.load(tmp_path / "text.onnx")
