"""Tests of captioning images again."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from preprocess.captioners import kinds, registry
from preprocess.captioners.captioner import CaptionerError
from preprocess.captioners.choice import CaptionerChoice, Kind
from preprocess.captions.generated import CACHE_VARIABLE
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from studio.pictures import captioning
from studio.pictures.edits import EditedSet
from tests.conftest import png

SETTINGS = {"captioner": "none", "resolution": 64, "trigger_word": "TOK", "class_word": "dog", "caption_prefix": "art"}
CONFIG = DataConfig.model_validate(SETTINGS)
COLOURS = {"red.png": (200, 0, 0), "blue.png": (0, 0, 200)}


class Fake:
    """A captioner that names the colour of an image, and fails for black images."""

    model_id, prompt = "fake", ""

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        pixels = [image.getpixel((9, 9)) for image in images]
        if (0, 0, 0) in pixels:
            raise CaptionerError("fake: sees nothing")
        return [f"The image shows a {'red' if pixel == (200, 0, 0) else 'blue'} dog on grass." for pixel in pixels]


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditedSet:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    choice = CaptionerChoice("fake", "fake", Kind.BLIP, "", False)
    monkeypatch.setattr(registry, "choose_captioner", lambda name, **options: choice)
    monkeypatch.setattr(kinds, "load_captioner", lambda choice, device: Fake())
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in COLOURS.items():
        (photos / name).write_bytes(png((64, 64), colour))
    return EditedSet.read(prepare([photos], CONFIG, tmp_path / "dataset").folder)


def request(edited: EditedSet, tmp_path: Path, *names: str) -> Path:
    path = tmp_path / "request.json"
    values = {"folder": str(edited.dataset.folder), "names": names, "settings": SETTINGS | {"captioner": "fake"}}
    path.write_text(json.dumps(values))
    return path


def test_new_captions_are_as_the_preparation_makes_them_and_train_opens_them(
    edited: EditedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert captioning.main([str(request(edited, tmp_path, *COLOURS))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "captioning 1 of 2" in lines[0]
    found = json.loads(lines[-1].removeprefix(captioning.RESULT))
    assert found == {"red.png": "art, a red TOK dog on grass.", "blue.png": "art, a blue TOK dog on grass."}
    edited.captioned(found, "fake").write()
    examples = reopen(edited.dataset.folder, CONFIG, BaseRequirements()).examples
    assert {each.source: each.caption for each in examples} == found
    assert {each.caption_source for each in examples} == {"fake"}


def test_only_the_chosen_picture_is_captioned(edited: EditedSet) -> None:
    config = CONFIG.model_copy(update={"captioner": "fake"})
    found = dict(captioning.caption_again(edited.dataset, ["red.png"], config))
    assert list(found) == ["red.png"]
    after = edited.captioned(found, "fake")
    assert after.changed(edited) == 1 and after.find("blue.png") == edited.find("blue.png")


def test_a_captioner_that_fails_says_why(edited: EditedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = edited.find("red.png")
    Image.new("RGB", example.bucket).save(edited.dataset.folder / example.views[0].file)
    assert captioning.main([str(request(edited, tmp_path, *COLOURS))]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "error: fake: sees nothing"
