"""Tests of editing captions and images, and of what train.py finds afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest

from preprocess.crops.crop import Crop
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from studio.pictures.edits import EDITED, EditedSet
from studio.pictures.shown import facts, picture_with_crop
from studio.pictures.uploads import store
from tests.conftest import png

CONFIG = DataConfig(captioner="none", resolution=64, trigger_word="TOK", class_word="dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared dataset of three images, one of them with a caption file."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
        (photos / f"{number}.png").write_bytes(png((120, 64), colour))
    (photos / "0.txt").write_text("TOK on grass. Very green", encoding="utf-8")
    return prepare([photos], CONFIG, tmp_path / "dataset").folder


def captions(folder: Path) -> list[str]:
    """Return the captions as train.py opens them."""
    return [example.caption for example in reopen(folder, CONFIG, BaseRequirements()).examples]


def test_edited_captions_are_what_train_opens(folder: Path) -> None:
    edited = EditedSet.read(folder)
    edited = edited.with_caption("1.png", "TOK  in\nthe rain").replaced(".", "").prepended("photo")
    edited.write()
    assert captions(folder) == ["photo, TOK on grass Very green", "photo, TOK in the rain", "photo, a photo of TOK dog"]
    assert {example.caption_source for example in PreparedDataset.read(folder).examples} == {EDITED}
    assert "photo, TOK in the rain" in (folder / "dataset.html").read_text(encoding="utf-8")


def test_only_what_changed_is_counted_and_marked(folder: Path) -> None:
    before = EditedSet.read(folder)
    after = before.replaced("grass", "sand")
    assert after.changed(before) == 1
    assert [example.caption_source == EDITED for example in after.dataset.examples] == [True, False, False]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda each: each.with_caption("0.png", "a dog"), "0.png: the caption must contain the trigger word TOK"),
        (lambda each: each.with_caption("9.png", "TOK"), "9.png: is not an image of this set"),
        (lambda each: each.replaced("TOK", "dog"), "must contain the trigger word TOK"),
        (lambda each: each.replaced("", "dog"), "find: is empty"),
        (lambda each: each.prepended("  "), "prepend: is empty"),
        (lambda each: each.with_caption("0.png", "TOK " * 2000), "at most 4,000 characters"),
    ],
)
def test_what_train_would_refuse_is_not_saved(folder: Path, edit: object, reason: str) -> None:
    edited = EditedSet.read(folder)
    with pytest.raises(DatasetError, match=reason):
        edit(edited)  # type: ignore[operator]


def test_pictures_are_left_out_and_taken_back(folder: Path) -> None:
    before = captions(folder)
    EditedSet.read(folder).leaving_out("1.png", True).write()
    assert captions(folder) == [before[0], before[2]]
    assert [example.source for example in EditedSet.read(folder).left_out] == ["1.png"]
    EditedSet.read(folder).leaving_out("1.png", False).write()
    assert captions(folder) == before
    only = EditedSet.read(folder).leaving_out("0.png", True).leaving_out("1.png", True)
    with pytest.raises(DatasetError, match="the last image"):
        only.leaving_out("2.png", True)


def test_the_crop_is_bright_and_the_rest_dark(folder: Path) -> None:
    example = EditedSet.read(folder).dataset.examples[0]
    crop = Crop((120, 64), (120, 64), (40, 0), (64, 64))
    cropped = replace(example, views=(replace(example.views[0], crop=crop),))
    red = picture_with_crop(folder, cropped).getchannel("R")
    assert red.size == (120, 64)
    assert [red.getpixel((x, 32)) for x in (5, 70, 115)] == pytest.approx([90, 200, 90], abs=12)
    assert facts(cropped).startswith("120 × 64, cropped to 64 × 64 around: ")


def test_loose_files_and_archives_become_sources(tmp_path: Path, make_zip: object) -> None:
    one, other = tmp_path / "a" / "dog.png", tmp_path / "b" / "dog.png"
    for path in (one, other):
        path.parent.mkdir()
        path.write_bytes(png())
    archive = make_zip({"cat.png": png()})  # type: ignore[operator]
    sources = store([one, archive, other], tmp_path / "stored", DataConfig())
    assert [source.name for source in sources] == ["files", "upload.zip"]
    assert sorted(path.name for path in sources[0].iterdir()) == ["dog-2.png", "dog.png"]
    hostile = make_zip({"../../outside.png": png()})  # type: ignore[operator]
    with pytest.raises(DatasetError, match="contains .."):
        store([hostile], tmp_path / "hostile", DataConfig())
    assert not (tmp_path / "hostile").exists()
    with pytest.raises(DatasetError, match="no files"):
        store([], tmp_path / "none", DataConfig())


def test_all_resolutions_of_a_picture_are_left_out_and_taken_back(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, colour in enumerate([(200, 40, 40), (40, 200, 40)]):
        (photos / f"{number}.png").write_bytes(png((160, 160), colour))
    config = CONFIG.model_copy(update={"resolution": (64, 128)})
    dataset = prepare([photos], config, tmp_path / "dataset")
    assert len(dataset.examples) == 4
    EditedSet.read(dataset.folder).leaving_out("0.png", True).write()
    assert [example.source for example in PreparedDataset.read(dataset.folder).examples] == ["1.png"] * 2
    EditedSet.read(dataset.folder).leaving_out("0.png", False).write()
    assert PreparedDataset.read(dataset.folder).examples == dataset.examples
    before = EditedSet.read(dataset.folder)
    assert before.prepended("photo").changed(before) == 2
