"""Tests of faces as a condition: they follow crops and mirror images, and missing faces and models are reported."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from preprocess.control.faces import CORNERS, read_faces
from preprocess.dataset import Example, PreparedDataset, View
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from settings.record import ConfigError, build_settings
from tests.preprocess.control.faces_by_colour import Box, picture_of, stand_in, vector, where

SIZE = (160, 96)
TWO: list[tuple[str, Box]] = [("anna", (30, 20, 60, 56)), ("ben", (96, 40, 120, 70))]


def config(model: Path | None, **values: object) -> DataConfig:
    given = {"resolution": 64, "captioner": "none", "control": "faces", "face_recognition_model": model}
    return build_settings(DataConfig, {**given, **values})


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return stand_in(monkeypatch, tmp_path)


def prepared(pictures: dict[str, Image.Image], folder: Path, settings: DataConfig) -> PreparedDataset:
    (folder / "photos").mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / "photos" / name)
    return prepare([folder / "photos"], settings, folder / "dataset")


def faces_of(dataset: PreparedDataset, view: View) -> np.ndarray:
    assert view.control is not None
    return read_faces(dataset.folder / view.control)


def views_of(examples: tuple[Example, ...]) -> list[View]:
    return [view for example in examples for view in example.views]


def test_boxes_lie_where_the_written_view_shows_the_faces(model: Path, tmp_path: Path) -> None:
    """Compares the boxes with the colours in the written files of two images, their mirror images and six crops."""
    pictures = {"two.png": picture_of(TWO, SIZE), "one.png": picture_of([("ben", (50, 40, 80, 90))], (96, 160))}
    settings = config(model, horizontal_flip=True, augmented_views=3, crop_jitter=0.3)
    dataset = prepared(pictures, tmp_path, settings)
    views = views_of(dataset.examples)
    assert len(views) == 10 and any(view.flipped for view in views[2:])
    assert not any("control: faces" in warning for warning in dataset.combined_warnings)
    seen = 0
    for view in views:
        with Image.open(dataset.folder / view.file) as image:
            shown, sides = where(image), np.array([*image.size, *image.size])
        faces = faces_of(dataset, view)
        assert faces.shape == (4, CORNERS + 128) and faces.dtype == np.float32
        told = set()
        for row in faces[faces.any(axis=1)]:
            person = next(name for name in ("anna", "ben") if np.allclose(row[CORNERS:], vector(name), atol=1e-6))
            assert np.abs(row[:CORNERS] * sides - shown[person]).max() <= 1.5, (view, person)
            told.add(person)
        inside = {name for name, box in shown.items() if min(box) > 0 and (box[2:] < sides[:2]).all()}
        assert inside <= told
        seen += len(told)
    assert seen >= 14


def test_at_most_so_many_faces_count(model: Path, tmp_path: Path) -> None:
    dataset = prepared({"two.png": picture_of(TWO, SIZE)}, tmp_path, config(model, control_max_faces=1))
    (row,) = faces_of(dataset, dataset.examples[0].views[0])
    assert np.allclose(row[CORNERS:], vector("anna"))


def test_a_picture_without_a_face_is_named(model: Path, tmp_path: Path) -> None:
    """An image whose face is outside the crop is named, too. Both are trained with an empty condition."""
    beside = picture_of([("anna", (0, 20, 20, 40))], (320, 64))
    pictures = {"none.png": Image.new("RGB", SIZE, (30, 30, 30)), "beside.png": beside}
    dataset = prepared(pictures, tmp_path, config(model, aspect_ratio_bucketing=False, crop="centre"))
    told = {warning.split(":")[0]: warning for warning in dataset.combined_warnings if "control: faces" in warning}
    assert "no face was detected, so its condition is empty" in told["none.png"]
    assert "none of its 1 faces is inside the crop" in told["beside.png"] and len(told) == 2
    assert not any(faces_of(dataset, view).any() for view in views_of(dataset.examples))


def test_without_a_model_or_with_another_one_nothing_is_prepared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {"two.png": picture_of(TWO, SIZE)}
    monkeypatch.delenv("FACE_RECOGNITION_MODEL", raising=False)
    with pytest.raises(DatasetError, match="control: faces needs SFace's file; set face_recognition_model or F"):
        prepared(pictures, tmp_path, config(None))
    monkeypatch.setattr("preprocess.faces.people.load_sface", lambda path: lambda face: np.ones(512))
    with pytest.raises(
        DatasetError, match="face_recognition_model: its embeddings have 512 numbers, and 128 are needed"
    ):
        prepared(pictures, tmp_path, config(model))


def test_a_prepared_dataset_is_of_one_kind(model: Path, tmp_path: Path) -> None:
    dataset = prepared({"two.png": picture_of(TWO, SIZE)}, tmp_path, config(model))
    again = reopen(dataset.folder, config(None), BaseRequirements())
    assert again.examples == dataset.examples
    with pytest.raises(DatasetError, match="its condition is not of control: canny; prepare the images again"):
        reopen(dataset.folder, config(None, control="canny"), BaseRequirements())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "0000_a.safetensors"
    for tensors in ({"faces": np.zeros((4, 9), np.float32)}, {"other": np.zeros(1)}):
        save_file(tensors, path)
        assert load_file(path)
        with pytest.raises(DatasetError, match="0000_a.safetensors: contains no faces; prepare the images again"):
            read_faces(path)
    path.write_bytes(b"none")
    with pytest.raises(DatasetError, match="0000_a.safetensors: cannot be read"):
        read_faces(path)


@pytest.mark.parametrize("name", ["control_max_faces", "control_full_share"])
def test_settings_of_faces_need_them(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no effect without control: faces"):
        config(None, control="canny", **{name: 1})
