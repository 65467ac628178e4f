"""Tests of moving crops, and of what train.py opens afterwards."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from preprocess.crops.subject import SubjectFinder
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
    """A folder with a small dark image and one that is red, green and blue from left to right, 64 pixels each."""
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


def colours(folder: Path, source: str, across: int = 32) -> list[Any]:
    """Return a pixel of each view of an image as train.py opens it: the middle, or the one at column `across`."""
    example = next(each for each in PreparedDataset.read(folder).examples if each.source == source)
    found = []
    for view in example.views:
        with Image.open(folder / view.file) as picture:
            found.append(picture.convert("RGB").getpixel((across, 32)))
    return found


def test_all_views_are_cut_at_the_new_place(edited: EditedSet, photos: Path) -> None:
    folder = edited.dataset.folder
    assert colours(folder, "wide.png") == [(0, 200, 0)] * 3
    moved = with_crop(edited, "wide.png", (130, 0, 64), [photos], CONFIG)
    moved.write()
    assert colours(folder, "wide.png") == [(0, 0, 200)] * 3
    example = moved.find("wide.png")
    window = example.views[0].crop.window()
    assert (round(window.left), round(window.width), example.crop_source) == (128, 64, BY_HAND)  # at the right border
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

    controlled = edited.changed_by(
        "wide.png", lambda each: replace(each, views=(replace(each.views[0], control="conditioning/0.png"),))
    )
    assert refused(controlled).startswith("wide.png: has a conditioning image; to move its crop, prepare the")
    with pytest.raises(DatasetError, match="its uploaded files are not known"):
        noted_sources(tmp_path)
    Image.new("RGB", (100, 64)).save(photos / "wide.png")
    assert "the uploaded file has changed" in refused(edited)
    (photos / "wide.png").unlink()
    assert "is no longer among the uploaded files" in refused(edited)


def mask_levels(folder: Path, source: str) -> list[list[Any]]:
    """Return the mask's level in each view at a quarter, at half, and at three quarters of the width."""
    example = next(each for each in PreparedDataset.read(folder).examples if each.source == source)
    found = []
    for view in example.views:
        assert view.mask is not None
        with Image.open(folder / view.mask) as mask:
            found.append([mask.convert("L").getpixel((x, 32)) for x in (16, 32, 48)])
    return found


def masked(photos: Path, tmp_path: Path, mask: str, **changed: Any) -> tuple[EditedSet, DataConfig]:
    """Return a set whose image has a mask of the green part and half of the blue one, as a file or as its opacity."""
    marked = Image.new("L", (192, 64))
    marked.paste(255, (64, 0, 160, 64))
    if mask == "files":
        marked.save(photos / "wide-masklabel.png")
    else:
        picture = Image.open(photos / "wide.png")
        picture.putalpha(marked)
        picture.save(photos / "wide.png")
    config = CONFIG.model_copy(update={"mask": mask, **changed})
    return EditedSet.read(prepare([photos], config, tmp_path / "masked" / "dataset").folder), config


@pytest.mark.parametrize("mask", ["files", "auto", "alpha"])
def test_a_mask_moves_with_its_picture(photos: Path, tmp_path: Path, mask: str) -> None:
    edited, config = masked(photos, tmp_path, mask, augmented_views=0)
    folder = edited.dataset.folder
    assert mask_levels(folder, "wide.png") == [[255, 255, 255]] * 2
    with_crop(edited, "wide.png", (128, 0, 64), [photos], config).write()
    assert colours(folder, "wide.png", 16)[0] == colours(folder, "wide.png", 47)[1] == (0, 0, 200)
    plain, mirrored = mask_levels(folder, "wide.png")
    assert (plain[0], plain[2], mirrored[0], mirrored[2]) == (255, 0, 0, 255)
    again = with_crop(EditedSet.read(folder), "wide.png", (48, 0, 64), [photos], config)  # the moved mask is recognised
    again.write()
    assert [levels[0] for levels in mask_levels(folder, "wide.png")] == [255, 255]
    assert mask_levels(folder, "wide.png")[0][2] == 255
    assert all(view.mask is None for view in again.find("other.png").views)


def test_masks_of_a_model_are_made_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(finder: object, search: Any, class_words: Sequence[str]) -> Image.Image:
        asked.append(list(class_words))
        whole = Image.new("L", search.picture.image.size)
        whole.paste(255, (0, 0, 100, 64))
        return whole

    asked: list[list[str]] = []
    monkeypatch.setattr(SubjectFinder, "_mask", drawn)
    edited, config = masked(photos, tmp_path, "alpha", augmented_views=0, horizontal_flip=False)
    with_crop(edited, "wide.png", (60, 0, 64), [photos], config).write()
    assert mask_levels(edited.dataset.folder, "wide.png") == [[255, 255, 0]]
    assert asked[-1] == ["dog"]


def test_a_mask_that_is_another_one_now_is_refused(photos: Path, tmp_path: Path) -> None:
    edited, config = masked(photos, tmp_path, "files", augmented_views=0)
    stored = edited.dataset.folder / str(edited.find("wide.png").views[0].mask)
    before = {path: path.read_bytes() for path in edited.dataset.folder.rglob("*.png")}

    def refused(left: float) -> str:
        with pytest.raises(DatasetError) as error:
            with_crop(edited, "wide.png", (left, 0, 64), [photos], config)
        return str(error.value)

    assert "its mask is empty there" in refused(0)
    assert {path: path.read_bytes() for path in before} == before
    Image.new("L", (64, 64), 90).save(stored)  # edited by hand
    assert "its mask differs from the one computed from its file and the settings" in refused(128)
    stored.write_bytes(before[stored])
    (photos / "wide-masklabel.png").unlink()
    assert "its mask differs from the one computed from its file and the settings" in refused(128)


def test_the_warning_of_a_lost_subject_is_gone_with_the_move(photos: Path, tmp_path: Path) -> None:
    _, config = masked(photos, tmp_path, "files", augmented_views=0)
    marked = Image.new("L", (192, 64))
    marked.paste(255, (0, 0, 40, 64))
    marked.save(photos / "wide-masklabel.png")
    lost = EditedSet.read(prepare([photos], config, tmp_path / "lost" / "dataset").folder)
    before = lost.find("wide.png").warnings
    assert any("its mask is empty in 2 of its 2 views" in line for line in before)
    moved = with_crop(lost, "wide.png", (0, 0, 64), [photos], config).find("wide.png")
    assert set(before) - set(moved.warnings) == {line for line in before if "is empty in" in line}
