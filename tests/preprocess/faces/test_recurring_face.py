"""Tests that the person who appears in most images is the subject, not the largest face. The stand-ins for the networks
identify people by colour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from preprocess.crops.subject import SubjectFinder
from preprocess.dataset import Example, FaceBox, PreparedDataset
from preprocess.errors import DatasetError
from preprocess.faces.people import FacesOfPicture
from preprocess.faces.recurring import recurring_face
from preprocess.prepare import prepare
from preprocess.uploads.decoding import Picture
from settings.preparation import DataConfig, MaskSource
from settings.record import ConfigError, build_settings

PEOPLE = {
    "anna": (220, 0, 0), "ben": (0, 220, 0), "cleo": (0, 0, 220), "dan": (220, 220, 0), "eve": (0, 220, 220),
    "finn": (220, 0, 220),
}  # fmt: skip
SMALL, LARGE = FaceBox(150, 20, 30, 30, 0.9), FaceBox(20, 60, 80, 80, 0.95)


def picture(small: str | None, large: str | None) -> Image.Image:
    image = Image.new("RGB", (200, 200), (30, 30, 30))
    for person, box in ((small, SMALL), (large, LARGE)):
        if person is not None:
            corners = (box.left, box.top, box.left + box.width, box.top + box.height)
            ImageDraw.Draw(image).rectangle(corners, fill=PEOPLE[person])
    return image


class Colours:
    """Finds faces at the two places where `picture` draws them."""

    name = "yunet"

    def detect(self, image: Image.Image) -> list[FaceBox]:
        def middle(box: FaceBox) -> tuple[int, int]:
            return round(box.left + box.width / 2), round(box.top + box.height / 2)

        return [box for box in (LARGE, SMALL) if max(image.getpixel(middle(box))) > 100]  # type: ignore[arg-type]


def by_colour(face: np.ndarray) -> np.ndarray:
    """Return an embedding: a direction for each person, with noise, so that two faces of one person differ."""
    colour = face[56, 56][::-1].astype(int)
    number = min(range(6), key=lambda each: np.abs(colour - list(PEOPLE.values())[each]).sum())
    noise = np.random.default_rng(int(face.sum())).normal(scale=0.15, size=6)
    return 7 * (np.eye(6)[number] + noise)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the recognition network's file. Stand-ins replace the networks."""
    for module in ("preprocess.faces.people", "preprocess.faces.registry"):
        monkeypatch.setattr(f"{module}.find_detector", lambda *names: Colours())
    monkeypatch.setattr("preprocess.faces.people.load_sface", lambda path: by_colour)
    (tmp_path / "sface.onnx").touch()
    return tmp_path / "sface.onnx"


GROUP = [("anna", "ben"), ("anna", "cleo"), (None, "anna"), ("anna", "dan"), (None, "eve"), ("finn", "anna")]


def prepared(pairs: Sequence[tuple[str | None, str | None]], folder: Path, **options: object) -> PreparedDataset:
    (folder / "photos").mkdir()
    for number, pair in enumerate(pairs):
        picture(*pair).save(folder / "photos" / f"p{number}.png")
    settings = {"resolution": 64, "captioner": "none", "concept_mode": "face", **options}
    return prepare([folder / "photos"], build_settings(DataConfig, settings), folder / "dataset")


def colour_of(dataset: PreparedDataset, example: Example) -> tuple[int, ...]:
    """Return the median colour of the bright pixels of the crop, which exclude the background."""
    with Image.open(dataset.folder / example.views[0].file) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    bright = pixels[pixels.max(axis=1) > 150]
    return tuple(np.median(bright, axis=0).astype(int))


def test_each_picture_is_cut_around_the_recurring_face(model: Path, tmp_path: Path) -> None:
    dataset = prepared(GROUP, tmp_path, face_recognition_model=model)
    shown = {example.source: colour_of(dataset, example) for example in dataset.examples}
    assert all(shown[f"p{number}.png"] == PEOPLE["anna"] for number in (0, 1, 2, 3, 5))
    assert shown["p4.png"] == PEOPLE["eve"]
    said = {example.source: " ".join(example.warnings) for example in dataset.examples}
    assert "1 face is not the recurring one of the concept, around pixel (60, 100): trained if" in said["p0.png"]
    assert "around pixel (165, 35)" in said["p5.png"] and "recurs" not in said["p2.png"]
    assert "p4.png: the recurring face of the concept was not detected in it" in said["p4.png"]


def test_a_preservation_image_of_the_same_name_has_its_own_face(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prior").mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 40, (8, 8, 3), np.uint8))  # else a near duplicate
    shown = ImageChops.lighter(picture(None, "finn"), noise.resize((200, 200)))
    shown.save(tmp_path / "prior" / "p0.png")
    prior = {"preservation_data": str(tmp_path / "prior"), "preservation_weight": 0.5}
    dataset = prepared(GROUP, tmp_path, face_recognition_model=model, **prior)
    (preserved,) = [example for example in dataset.examples if example.concept is None]
    assert preserved.crop_source == "face" and preserved.faces == (LARGE,)


def test_without_the_file_it_is_the_most_prominent_face(model: Path, tmp_path: Path) -> None:
    dataset = prepared(GROUP, tmp_path)
    assert colour_of(dataset, dataset.examples[0]) == PEOPLE["ben"]
    assert not any("recurs" in line for line in dataset.all_warnings)


def test_the_environment_names_the_file_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_RECOGNITION_MODEL", str(model))
    dataset = prepared(GROUP, tmp_path)
    assert colour_of(dataset, dataset.examples[0]) == PEOPLE["anna"]


@pytest.mark.parametrize("mask", ["face", "files"])
def test_other_people_are_left_out_of_masks(mask: MaskSource, model: Path, tmp_path: Path) -> None:
    """A mask from a file excludes only the other faces; a face mask contains only the recurring face."""
    file = tmp_path / "mask.png"
    Image.new("L", (200, 200), 255).save(file)
    finder = SubjectFinder(DataConfig(mask=mask, crop="face", face_recognition_model=model))
    people = FacesOfPicture((LARGE, SMALL), SMALL)
    subject = finder.find(Picture(picture("anna", "ben"), None, ()), "p.png", (64, 64), [], file, people)
    assert subject.mask is not None and subject.found_by == "face"
    levels = np.asarray(subject.mask)
    assert levels[35, 165] > 240 and levels[100, 60] < 5 and levels[190, 190] == (255 if mask == "files" else 0)
    (warning,) = subject.warnings
    assert (
        warning == "p.png: 1 face is not the recurring one of the concept, around pixel (60, 100): "
        "removed from the mask"
    )


def test_no_face_recurs(model: Path, tmp_path: Path) -> None:
    dataset = prepared([("ben", "cleo"), (None, "dan"), (None, "eve")], tmp_path, face_recognition_model=model)
    assert "TOK: no face recurs in its images; the most prominent face of each is used" in dataset.all_warnings


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, float)
    return vector / np.linalg.norm(vector)


NONE = np.empty((0, 1))


@pytest.mark.parametrize(
    ("pictures", "places"),
    [
        ([], None),
        ([NONE, NONE], None),
        ([np.stack([unit(1, 0)])], None),
        ([np.stack([unit(1, 0)]), np.stack([unit(0, 1)])], None),
        ([np.stack([unit(1, 0)]), np.stack([unit(0, 1), unit(1, 0.1)])], [0, 1]),
        ([np.stack([unit(0, 1), unit(1, 0)]), NONE, np.stack([unit(1, 0.3)])], [1, None, 0]),
        # two people appear twice: the one whose two faces are more similar is chosen
        ([np.stack([unit(1, 0), unit(0, 1)]), np.stack([unit(0.1, 1), unit(1, 0.5)])], [1, 0]),
        # two faces of a person in one image, as with a mirror, are no recurrence
        ([np.stack([unit(1, 0), unit(1, 0.05), unit(0, 1)]), np.stack([unit(0, 1)])], [2, 0]),
    ],
)
def test_who_recurs(pictures: list[np.ndarray], places: list[int | None] | None) -> None:
    assert recurring_face(pictures) == places


def test_the_order_of_pictures_says_nothing() -> None:
    generator = np.random.default_rng(0)
    pictures = [np.stack([unit(*generator.normal(size=8)) for _ in range(4)]) for _ in range(6)]
    person = unit(*generator.normal(size=8))
    for number, faces in enumerate(pictures):
        faces[number % 4] = unit(*(person + generator.normal(scale=0.1, size=8)))
    assert recurring_face(pictures) == [0, 1, 2, 3, 0, 1]
    assert recurring_face(pictures[::-1]) == [1, 0, 3, 2, 1, 0]


def test_a_missing_file_and_one_without_effect(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.onnx does not exist; get face_recognition_sface"):
        prepared(GROUP[:1], tmp_path, face_recognition_model=tmp_path / "gone.onnx")
    for name in ("face_recognition_model", "face_detector_model"):
        with pytest.raises(ConfigError, match=f"{name} has no effect if faces are not detected"):
            build_settings(DataConfig, {name: "model.onnx", "captioner": "none"})
