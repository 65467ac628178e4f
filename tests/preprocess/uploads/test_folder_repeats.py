"""Tests of the repeats of images by their folders: fractions, invalid numbers, and preservation images."""

from fractions import Fraction
from pathlib import Path

import pytest

from preprocess.errors import DatasetError
from preprocess.uploads.folder_rules import folder_repeats, whole_repeats_scale
from preprocess.uploads.intake import FoundFile
from tests.preprocess.uploads.test_layouts import picture, prepared


def image_beside(root: Path, multiply: str) -> FoundFile:
    folder = root / "10_x"
    folder.mkdir(exist_ok=True)
    (folder / "multiply.txt").write_text(multiply)
    return FoundFile(folder / "a.png", "10_x/a.png", root)


@pytest.mark.parametrize(
    ("text", "repeats"), [("3", 30), ("0.5", 5), (" .25\n", Fraction(5, 2)), ("1/3", Fraction(10, 3)), ("1.05", 10.5)]
)
def test_numbers_and_fractions_multiply(text: str, repeats: float, tmp_path: Path) -> None:
    assert folder_repeats(image_beside(tmp_path, text)) == repeats


@pytest.mark.parametrize("text", ["0", "-1", "0.0", "1e3", "nan", "1/0", "", "1,5", "101", "٣", "1/2/3"])
def test_other_numbers_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="repeats of "):
        folder_repeats(image_beside(tmp_path, text))


def test_the_smallest_whole_numbers_are_taken() -> None:
    assert whole_repeats_scale([]) == whole_repeats_scale([Fraction(3)]) == 1
    assert whole_repeats_scale([Fraction(1, 2), Fraction(2, 3), Fraction(5)]) == 6
    with pytest.raises(DatasetError, match="choose simpler ones"):
        whole_repeats_scale([Fraction(1, 7), Fraction(1, 17)])


def test_halves_are_kept_among_concept_and_preservation_images(tmp_path: Path) -> None:
    files = ("data/a/1.png", "data/b/2.png", "data/reg/3.png")
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(picture(number))
    (tmp_path / "data/a/multiply.txt").write_text("0.5")
    dataset = prepared(tmp_path / "data", tmp_path, balance_concepts=False)
    assert {example.source: example.repeats for example in dataset.examples} == {
        "a/1.png": 1, "b/2.png": 2, "reg/3.png": 2,
    }  # fmt: skip
    assert [example.concept is None for example in dataset.examples] == [False, False, True]


def test_a_date_as_folder_name_is_named_with_its_remedy(tmp_path: Path) -> None:
    image = FoundFile(tmp_path / "2023_05_x" / "a.png", "2023_05_x/a.png", tmp_path)
    with pytest.raises(DatasetError, match="folder '2023_05_x': repeats of '2023'; .* as in a date, rename the folder"):
        folder_repeats(image)
