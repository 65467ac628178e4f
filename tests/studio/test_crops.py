"""Crops that are moved, and what train.py opens afterwards."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from studio.pictures.crops import BY_HAND, with_crop
from studio.pictures.edits import EditedSet
from studio.pictures.stored import note_sources, noted_sources

CONFIG = DataConfig(
    captioner="none", resolution=64, trigger_word="TOK", class_word="dog", crop="centre", aspect_ratio_bucketing=False,
    horizontal_flip=True, augmented_views=1, crop_jitter=0.2,
)  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A picture that is red on the left, green in the middle and blue on the right, 64 pixels each."""
    picture = Image.new("RGB", (192, 64), (0, 200, 0))
    picture.paste((200, 0, 0), (0, 0, 64, 64))
    picture.paste((0, 0, 200), (128, 0, 192, 64))
    folder = tmp_path / "photos"
    folder.mkdir()
    picture.save(folder / "wide.png")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder / "other.png")
    return folder


@pytest.fixture
def edited(photos: Path, tmp_path: Path) -> EditedSet:
    return EditedSet.read(prepare([photos], CONFIG, tmp_path / "set" / "dataset").folder)


def colours(folder: Path, source: str) -> list[Any]:
    """The middle of each view of a picture, as train.py opens it."""
    example = next(each for each in PreparedDataset.read(folder).examples if each.source == source)
    found = []
    for view in example.views:
        with Image.open(folder / view.file) as picture:
            found.append(picture.convert("RGB").getpixel((32, 32)))
    return found


def test_all_views_are_cut_at_the_new_place(edited: EditedSet, photos: Path) -> None:
    folder = edited.dataset.folder
    assert colours(folder, "wide.png") == [(0, 200, 0)] * 3
    moved = with_crop(edited, "wide.png", (130, 0, 64), [photos], CONFIG)
    moved.write()
    assert colours(folder, "wide.png") == [(0, 0, 200)] * 3
    example = moved.find("wide.png")
    window = example.views[0].crop.window()
    assert (round(window.left), round(window.width), example.crop_source) == (128, 64, BY_HAND)  # as far as it goes
    assert moved.find("other.png") == edited.find("other.png")


def test_a_smaller_crop_is_enlarged_to_the_same_size(edited: EditedSet, photos: Path) -> None:
    moved = with_crop(edited, "wide.png", (0, 0, 32), [photos], CONFIG)
    crop = moved.find("wide.png").views[0].crop
    assert (crop.target, round(crop.enlargement()), round(crop.window().width)) == ((64, 64), 2, 32)
    PreparedDataset.read(edited.dataset.folder)  # the files still have the size that they are trained at


def test_what_a_waiting_job_shares_by_a_hard_link_stays(edited: EditedSet, photos: Path, tmp_path: Path) -> None:
    file = edited.dataset.folder / edited.find("wide.png").views[0].file
    of_the_job = tmp_path / "of_the_job.png"
    os.link(file, of_the_job)
    before = of_the_job.read_bytes()
    with_crop(edited, "wide.png", (0, 0, 64), [photos], CONFIG).write()
    assert of_the_job.read_bytes() == before != file.read_bytes()


def test_pictures_are_found_in_archives(
    tmp_path: Path, photos: Path, make_zip: Callable[[Mapping[str, bytes]], Path]
) -> None:
    archive = make_zip({"in/wide.png": (photos / "wide.png").read_bytes()})
    edited = EditedSet.read(prepare([archive], CONFIG, tmp_path / "set" / "dataset").folder)
    (source,) = [example.source for example in edited.dataset.examples]
    note_sources(tmp_path / "set", [archive])
    with_crop(edited, source, (0, 0, 64), noted_sources(tmp_path / "set"), CONFIG).write()
    assert colours(edited.dataset.folder, source) == [(200, 0, 0)] * 3


def test_what_cannot_be_cut_anew_is_refused(edited: EditedSet, photos: Path, tmp_path: Path) -> None:
    def refused(one: EditedSet, config: DataConfig = CONFIG) -> str:
        with pytest.raises(DatasetError) as error:
            with_crop(one, "wide.png", (0, 0, 64), [photos], config)
        return str(error.value)

    masked = edited.changed_by(
        "wide.png", lambda each: replace(each, views=(replace(each.views[0], mask="masks/0.png"), *each.views[1:]))
    )
    assert refused(masked).startswith("wide.png: has a mask; to move its crop, prepare the pictures again")
    with pytest.raises(DatasetError, match="its dropped files are not known"):
        noted_sources(tmp_path)
    Image.new("RGB", (100, 64)).save(photos / "wide.png")
    assert "the dropped file is another one now" in refused(edited)
    (photos / "wide.png").unlink()
    assert "is not among the dropped files any more" in refused(edited)
