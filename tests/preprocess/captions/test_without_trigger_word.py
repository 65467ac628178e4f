"""Tests of `trigger_word: ""`: captions are trained as they are written, for all images or for those of one concept."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from preprocess.dataset import DATASET_FILE, PreparedDataset
from preprocess.errors import DatasetError
from preprocess.gallery.page import write_gallery
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from settings.record import ConfigError, build_settings
from settings.training import build_config
from tests.preprocess.uploads.ugly_uploads.making import picture

MakeFiles = Callable[[Mapping[str, bytes]], Path]
OPTIONS = {"resolution": 64, "captioner": "none"}
REX = {"trigger_word": "REX", "class_word": "dog", "folder": "rex"}
REST = {"trigger_word": ""}


def pictures(*names: str) -> dict[str, bytes]:
    return {name: picture(seed=number) for number, name in enumerate(names)}


def prepared(files: Mapping[str, bytes], folder: Path, make: MakeFiles, **options: object) -> PreparedDataset:
    return prepare([make(files)], build_settings(DataConfig, OPTIONS | options), folder)


@pytest.mark.parametrize("mode", ["object", "face", "style"])
@pytest.mark.parametrize("text", ["a dog on grass", "tok, a woman", "TOK", "a man, in the rain"])
def test_captions_are_what_was_written(mode: str, text: str, make_zip: MakeFiles, tmp_path: Path) -> None:
    files = pictures("a.png", "b.png") | {"a.txt": text.encode(), "b.txt": b"something else"}
    options = {"trigger_word": "", "class_word": "dog", "concept_mode": mode}
    dataset = prepared(files, tmp_path / "set", make_zip, **options)
    assert [example.caption for example in dataset.examples] == [text, "something else"]
    assert {example.concept for example in dataset.examples} == {""}
    assert not any("trigger" in warning or "caption" in warning for warning in dataset.all_warnings)


def test_prefix_and_suffix_are_written_too(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = pictures("a.png") | {"a.txt": b"a dog"}
    dataset = prepared(files, tmp_path / "set", make_zip, trigger_word="", caption_prefix="film still")
    assert dataset.examples[0].caption == "film still, a dog"


def test_an_image_without_a_caption_has_an_empty_one_which_is_said(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = pictures("a.png", "b.png") | {"a.txt": b"a dog"}
    dataset = prepared(files, tmp_path / "set", make_zip, trigger_word="", class_word="dog")
    assert [example.caption for example in dataset.examples] == ["a dog", ""]
    assert any("1 of 2 images have no caption and are trained with the empty caption: b.png" in warning
               for warning in dataset.warnings)  # fmt: skip


def test_one_concept_of_several_has_no_word(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = pictures("rex/1.png", "rex/2.png", "others/1.png", "others/2.png", "others/3.png", "others/4.png")
    files |= {"others/1.txt": b"a lamp", "rex/1.txt": b"a dog asleep"}
    for rest in (REST, REST | {"folder": "others"}):
        dataset = prepared(files, tmp_path / f"set{len(rest)}", make_zip, concepts=[REX, rest])
        found = {example.source: (example.concept, example.caption, example.repeats) for example in dataset.examples}
        assert found["rex/1.png"] == ("REX", "a REX dog asleep", 2)
        assert found["rex/2.png"] == ("REX", "a photo of REX dog", 2)
        assert found["others/1.png"] == ("", "a lamp", 1)
        assert found["others/2.png"] == ("", "", 1)
        assert not any("preservation" in warning for warning in dataset.warnings)


def test_repeats_of_two_concepts_without_words_are_those_of_their_folders(make_zip: MakeFiles, tmp_path: Path) -> None:
    concepts = [REST | {"folder": "a", "repeats": 3}, REST | {"folder": "b"}]
    dataset = prepared(pictures("a/1.png", "b/1.png"), tmp_path / "set", make_zip, concepts=concepts)
    assert [example.repeats for example in dataset.examples] == [3, 1]


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ([REST | {"folder": "a"}, REST | {"folder": "bb"}], "without a trigger word: no images in the folder 'bb'"),
        ([REX, REST | {"folder": "a"}], "concept REX: no images in the folder 'rex'"),
        (
            [REST | {"folder": "a"}, REST | {"folder": "b"}, REST],
            "without a trigger word: no images outside the folders",
        ),
    ],
)
def test_a_concept_without_images_is_an_error(
    concepts: list[dict[str, object]], message: str, make_zip: MakeFiles, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        prepared(pictures("a/1.png", "a/2.png", "b/1.png")
                 if len(concepts) == 3 else pictures("a/1.png", "a/2.png"),
                 tmp_path / "set", make_zip, concepts=concepts)  # fmt: skip


def test_it_is_opened_again_as_it_is(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = pictures("a.png") | {"a.txt": b"a dog"}
    dataset = prepared(files, tmp_path / "set", make_zip, trigger_word="")
    again = reopen(dataset.folder, build_settings(DataConfig, OPTIONS | {"trigger_word": ""}), BaseRequirements())
    assert again.examples == dataset.examples
    assert json.loads((dataset.folder / DATASET_FILE).read_text())["concept"] == ""
    with pytest.raises(
        DatasetError, match='its trigger word is "", and the configuration has TOK; set trigger_word to ""'
    ):
        reopen(dataset.folder, build_settings(DataConfig, OPTIONS), BaseRequirements())
    assert "without a trigger word" in write_gallery(dataset, dataset.folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trigger_only_dropout": 0.1}, "trigger_only_dropout has no effect without a trigger_word"),
        ({"num_tokens": 2}, "num_tokens has no effect with an empty trigger_word"),
        ({"train_existing_tokens": True}, "train_existing_tokens has no effect with an empty trigger_word"),
        ({"prior_matching_weight": 1.0}, "prior_matching_weight needs captions without"),
        ({"evaluate": "true", "evaluation_prompts": ["a {trigger}"]}, "stands for the trigger_word, which is empty"),
        ({"trigger_word": "TOK", "evaluate": "true", "evaluation_prompts": ["a dog"]}, "each must contain {trigger}"),
        ({"trigger_word": "TOK", "concepts": [REST, REST]}, "only one may have neither folder nor"),
        ({"trigger_word": " "}, "must be one word without spaces"),
    ],
)
def test_settings_that_need_the_word_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config({"trigger_word": ""} | settings)
