"""Tests of face detection on photographs that scikit-image includes, and of the choice between faces."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocess.crops.crop import apply_crop, crop_to_window
from preprocess.dataset import FaceBox
from preprocess.errors import DatasetError
from preprocess.faces.boxes import best_faces, clip, turn_back
from preprocess.faces.choice import choose_face
from preprocess.faces.detector import FaceDetector
from preprocess.faces.haar import vote_score
from preprocess.faces.registry import find_detector
from preprocess.faces.window import face_window
from preprocess.faces.yunet import CHECKSUMS, YuNetDetector
from tests.fast_part import slow_but

EYES_NOSE_MOUTH = (222, 118)  # the middle of the astronaut's face
YUNET_MODEL = Path(os.environ["FACE_DETECTOR_MODEL"]) if "FACE_DETECTOR_MODEL" in os.environ else None
INSTALLED = ["haar", *["yuface"] * bool(importlib.util.find_spec("yuface")), *["yunet"] * bool(YUNET_MODEL)]
FACELESS = ("coffee.png", "chelsea.png", "rocket.jpg", "coins.png", "gravel.png", "motorcycle_right.png", "horse.png")


def photograph(name: str) -> Image.Image:
    package = importlib.util.find_spec("skimage")
    assert package and package.submodule_search_locations
    with Image.open(Path(package.submodule_search_locations[0]) / "data" / name) as image:
        return image.convert("RGB")


def middle(face: FaceBox) -> tuple[float, float]:
    return face.left + face.width / 2, face.top + face.height / 2


def marked_place(size: tuple[int, int], place: tuple[int, int], degrees: int) -> tuple[float, float]:
    """Return the position of `place` after Pillow has rotated an image of this size by `degrees`."""
    mark = Image.new("L", size)
    mark.putpixel(place, 255)
    left, top, _, _ = mark.rotate(degrees, expand=True).getbbox() or (0, 0, 0, 0)
    return left, top


@pytest.fixture
def astronaut() -> Image.Image:
    return photograph("astronaut.png")


@pytest.fixture(autouse=True)
def no_model_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACE_DETECTOR_MODEL", raising=False)


@pytest.fixture(params=INSTALLED)
def detector(request: pytest.FixtureRequest) -> FaceDetector:
    return find_detector(request.param, YUNET_MODEL if request.param == "yunet" else None)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_face_is_found_however_the_picture_is_turned(
    detector: FaceDetector, astronaut: Image.Image, degrees: int
) -> None:
    (face,) = detector.detect(astronaut.rotate(degrees, expand=True))
    assert middle(face) == pytest.approx(marked_place(astronaut.size, EYES_NOSE_MOUTH, degrees), abs=18)
    assert 60 < face.width < 125 and 60 < face.height < 125
    assert 0.8 <= face.score <= 1


@pytest.mark.parametrize("scale", [0.5, 3])
def test_boxes_are_in_pixels_of_the_whole_picture(detector: FaceDetector, astronaut: Image.Image, scale: float) -> None:
    (face,) = detector.detect(astronaut.resize((round(512 * scale), round(512 * scale))))
    assert middle(face) == pytest.approx([scale * place for place in EYES_NOSE_MOUTH], abs=18 * scale)
    assert 80 * scale < face.height < 125 * scale


def test_a_face_at_a_picture_side_that_is_no_square_is_found_where_it_is(
    detector: FaceDetector, astronaut: Image.Image
) -> None:
    wide = Image.new("RGB", (1400, 700), "grey")
    wide.paste(astronaut, (880, 150))
    for degrees in (0, 90, 270):
        (face,) = detector.detect(wide.rotate(degrees, expand=True))
        expected = marked_place(wide.size, (880 + EYES_NOSE_MOUTH[0], 150 + EYES_NOSE_MOUTH[1]), degrees)
        assert middle(face) == pytest.approx(expected, abs=25)


def test_two_people_are_two_faces_and_a_warning(detector: FaceDetector, astronaut: Image.Image) -> None:
    twins = Image.new("RGB", (1024, 512))
    twins.paste(astronaut, (0, 0))
    twins.paste(astronaut, (512, 0))
    faces = detector.detect(twins)
    assert len(faces) == 2 and faces[0].score >= faces[1].score
    assert sorted(middle(face)[0] for face in faces) == pytest.approx([222, 222 + 512], abs=18)
    (warning,) = choose_face(faces, twins.size).warnings
    assert warning.startswith("2 faces of similar size")


@pytest.mark.parametrize("name", slow_but(FACELESS[:3], FACELESS))
def test_pictures_without_people_have_no_faces(detector: FaceDetector, name: str) -> None:
    assert detector.detect(photograph(name)) == []


def test_the_networks_find_a_profile_too(detector: FaceDetector) -> None:
    if detector.name == "haar":
        pytest.skip("a frontal cascade finds no profile")
    (face,) = detector.detect(photograph("camera.png"))
    assert middle(face) == pytest.approx((225, 150), abs=20)


def test_head_and_shoulders_of_a_real_photograph(detector: FaceDetector, astronaut: Image.Image) -> None:
    (face,) = detector.detect(astronaut)
    window = face_window(face, astronaut.size, 2 / 3)
    portrait = apply_crop(astronaut, crop_to_window(astronaut.size, window, (256, 384)))
    (again,) = detector.detect(portrait)
    assert 0.25 < again.width / portrait.width < 0.42
    assert middle(again)[0] == pytest.approx(128, abs=12)


def test_a_cascade_vote_becomes_a_score_on_the_scale_of_the_networks() -> None:
    assert vote_score(53.7) == 0
    assert vote_score(53.7556 + 1.75) == pytest.approx(0.8)
    assert vote_score(57.7) == pytest.approx(0.973, abs=1e-3)


@given(st.integers(1, 3), st.integers(0, 30), st.integers(0, 10), st.integers(1, 9), st.integers(1, 9))
def test_turning_back_undoes_the_turn_of_the_picture(turns: int, left: int, top: int, width: int, height: int) -> None:
    picture = Image.new("L", (40, 20))
    picture.paste(255, (left, top, left + width, top + height))
    x0, y0, x1, y1 = picture.rotate(90 * turns, expand=True).getbbox() or (0, 0, 0, 0)
    found = FaceBox(x0, y0, x1 - x0, y1 - y0, 0.9)
    assert turn_back(found, turns, picture.size) == FaceBox(left, top, width, height, 0.9)


@given(*[st.floats(-50, 150)] * 2, *[st.floats(1, 100)] * 2)
def test_clipped_boxes_lie_inside(left: float, top: float, width: float, height: float) -> None:
    box = clip(FaceBox(left, top, width, height, 0.9), (100, 80))
    assert box.width >= 0 and box.height >= 0
    if box.width and box.height:
        assert box.left >= 0 and box.left + box.width <= 100 + 1e-9
        assert box.top >= 0 and box.top + box.height <= 80 + 1e-9


def test_small_and_doubtful_faces_are_left_out() -> None:
    sure, surer = FaceBox(0, 0, 20, 20, 0.8), FaceBox(50, 50, 20, 20, 0.95)
    doubtful, small = FaceBox(0, 0, 90, 90, 0.79), FaceBox(0, 0, 15, 15, 0.99)
    assert best_faces([sure, doubtful, small, surer], (600, 400)) == [surer, sure]


def test_the_largest_face_is_chosen_and_the_nearest_to_the_middle_of_equal_ones() -> None:
    large, small = FaceBox(0, 0, 50, 50, 0.9), FaceBox(90, 90, 20, 20, 0.9)
    assert choose_face([small, large], (200, 200)).face == large
    corner, central = FaceBox(0, 0, 50, 50, 0.9), FaceBox(75, 75, 50, 50, 0.9)
    assert choose_face([corner, central], (200, 200)).face == central


@pytest.mark.parametrize(("side", "warned"), [(59, False), (61, True)])
def test_only_faces_of_similar_size_are_warned_of(side: int, warned: bool) -> None:
    faces = [FaceBox(50, 50, 100, 100, 0.9), FaceBox(0, 0, side, side, 0.9)]
    assert bool(choose_face(faces, (200, 200)).warnings) is warned


def test_no_face_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose_face([], (200, 200))


def test_auto_takes_the_first_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_detector("auto").name == ("yuface" if importlib.util.find_spec("yuface") else "haar")
    monkeypatch.setattr(cv2, "FaceDetectorYN", Network)
    model = tmp_path / "yunet.onnx"
    model.write_bytes(b"weights")
    assert find_detector("auto", model).name == "yunet"
    monkeypatch.setenv("FACE_DETECTOR_MODEL", str(model))
    assert find_detector("auto").name == find_detector("yunet").name == "yunet"


def test_a_model_that_is_named_but_missing_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_DETECTOR_MODEL", "nowhere/yunet.onnx")
    for name in ("auto", "yunet"):
        with pytest.raises(
            DatasetError, match=r"nowhere/yunet.onnx: the model file of the face detector does not exist; .* model zoo"
        ):
            find_detector(name)


def test_what_is_asked_for_and_missing_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="FACE_DETECTOR_MODEL"):
        find_detector("yunet")
    with pytest.raises(DatasetError, match="has no model file"):
        find_detector("haar", Path("yunet.onnx"))
    monkeypatch.setitem(sys.modules, "yuface", None)
    with pytest.raises(DatasetError, match="pip install yuface"):
        find_detector("yuface")
    monkeypatch.delattr(cv2, "CascadeClassifier")  # as in OpenCV 5
    with pytest.raises(DatasetError, match="opencv-python-headless<5"):
        find_detector("haar")


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    (name,) = CHECKSUMS
    model = tmp_path / name
    model.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DatasetError, match=r"sha256 is .*git-lfs pointer \(43 bytes\)"):
        find_detector("yunet", model)
    other = model.rename(tmp_path / "own.onnx")
    with pytest.raises(DatasetError, match="OpenCV cannot read this network"):
        find_detector("yunet", other)


class Network:
    """Stands in for OpenCV's YuNet: finds one face, in the red part of the image."""

    input_size = (0, 0)

    @classmethod
    def create(cls, *arguments: Any, **settings: Any) -> "Network":
        return cls()

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.input_size = size

    def detect(self, bgr: np.ndarray) -> tuple[int, np.ndarray | None]:
        assert bgr.shape == (self.input_size[1], self.input_size[0], 3)
        rows, columns = np.nonzero(bgr[:, :, 2] > 200)
        if not len(rows):
            return 1, None
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        return 1, np.array([[*box, *range(10), 0.9]], np.float32)


def test_yunet_sees_bgr_and_tells_pixels_of_the_whole_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "FaceDetectorYN", Network)
    model = tmp_path / "yunet.onnx"
    model.write_bytes(b"weights")
    picture = Image.new("RGB", (1280, 320), "blue")
    assert YuNetDetector(model).detect(picture) == []
    picture.paste("red", (600, 100, 700, 220))
    (face,) = YuNetDetector(model).detect(picture)
    assert (face.left, face.top, face.width, face.height) == pytest.approx((600, 100, 100, 120), abs=3)
    assert face.score == pytest.approx(0.9)


def test_choosing_a_detector_imports_none_before_it_is_asked_for() -> None:
    code = "import sys, preprocess.faces.registry as r; assert not {'cv2', 'torch', 'yuface'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
