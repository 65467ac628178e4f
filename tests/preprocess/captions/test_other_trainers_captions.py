"""Tests of captions written for other trainers and user interfaces: placeholders for the trigger word, alternatives,
and syntax that is trained as plain text."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.captions.foreign_syntax import syntax_warnings
from preprocess.captions.labels import label, preservation_label
from preprocess.captions.pairing import Caption
from preprocess.captions.wildcards import MOST_CAPTIONS, expanded
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.conftest import png

MakeFiles = Callable[[Mapping[str, bytes]], Path]


def label_of(text: str, **settings: object) -> tuple[str, ...]:
    config = build_settings(DataConfig, settings)
    return label("a.png", Caption(text, "a.txt"), None, 1, config).captions


@pytest.mark.parametrize(
    "place",
    ["[trigger]", "{trigger}", "<trigger>", "[TRIGGER]", "{trigger_word}", "<trigger word>", "[[trigger]]",
     "{{trigger}}", "__trigger__", "%trigger%", "$trigger", "[name]", "{}", "<token>", "{instance_token}", "[TOK]",
     "<TOK>", "{ TOK }", "[concept]"],
)  # fmt: skip
def test_a_place_for_the_trigger_is_filled(place: str) -> None:
    assert label_of(f"a photo of {place} on a beach") == ("a photo of TOK on a beach",)


@pytest.mark.parametrize("text", ["a TOK [left] of it", "TOK <3", "a {TOK} and {more}", "TOK $5", "TOK in 100% wool"])
def test_other_brackets_are_text(text: str) -> None:
    assert label_of(text) == (text.replace("{TOK}", "TOK"),)


@pytest.mark.parametrize("place", ["[class]", "{class_word}", "<class name>"])
def test_a_place_for_the_class_word_is_filled(place: str) -> None:
    assert label_of(f"a [trigger] {place} on sand", class_word="dog") == ("a TOK dog on sand",)
    assert label_of(f"a [trigger] {place} on sand") == ("a TOK on sand",)


def test_brackets_that_belong_to_the_trigger_stay() -> None:
    assert label_of("a photo of <robot>", trigger_word="<robot>") == ("a photo of <robot>",)


def test_the_trigger_of_the_image_s_own_concept_is_filled_in() -> None:
    concepts = [{"trigger_word": "ANNA", "folder": "x"}, {"trigger_word": "BEN", "folder": "y"}]
    config = build_settings(DataConfig, {"concepts": concepts})
    assert label("y/a.png", Caption("[trigger] on sand", "a.txt"), None, 1, config).caption == "BEN on sand"


def test_a_preservation_image_gets_the_class_word() -> None:
    config = build_settings(DataConfig, {"class_word": "dog"})
    given_label = preservation_label("a.png", Caption("a [trigger] on sand", "a.txt"), None, 1, config)
    assert given_label.caption == "a dog on sand" and not given_label.warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {red|blue} TOK", ("a red TOK", "a blue TOK")),
        ("{a|the} TOK {at sea|on sand}", ("a TOK at sea", "a TOK on sand", "the TOK at sea", "the TOK on sand")),
        ("a {red|{dark|light} blue} TOK", ("a red TOK", "a dark blue TOK", "a light blue TOK")),
        ("TOK{, red|}", ("TOK, red", "TOK")),
        ("a {2::red|blue} TOK", ("a red TOK", "a blue TOK")),
        ("TOK, {2$$red|blue}", ("TOK, red", "TOK, blue")),
        ("{TOK|robot} on sand", ("TOK on sand", "TOK, robot on sand")),
        ("{[trigger]|a [trigger]} on sand", ("TOK on sand", "a TOK on sand")),
        ("TOK {unclosed|brackets", ("TOK {unclosed|brackets",)),
        ("TOK {unclosed|x, {red|blue}", ("TOK {unclosed|x, red", "TOK {unclosed|x, blue")),
    ],
)
def test_alternatives_become_captions_of_which_one_is_drawn(text: str, expected: tuple[str, ...]) -> None:
    assert label_of(text) == expected


def test_alternatives_of_every_line(make_folder: MakeFiles, tmp_path: Path) -> None:
    folder = make_folder({"a.png": png(), "a.txt": b"a {red|blue} TOK\nTOK"})
    config = build_settings(DataConfig, {"resolution": 64, "captioner": "none"})
    dataset = prepare([folder], config, tmp_path / "dataset")
    assert dataset.examples[0].captions == ("a red TOK", "a blue TOK", "TOK")
    assert any("have several captions" in line for line in dataset.warnings)


@given(st.text(alphabet="ab {|}$:2", max_size=40))
def test_any_brackets_make_a_bounded_number_of_captions(text: str) -> None:
    made = expanded(text)
    assert len(made) <= MOST_CAPTIONS and len(set(made)) == len(made)
    assert made == expanded(text)


def test_very_many_alternatives_are_drawn_from() -> None:
    text = "a {1|2|3|4|5|6|7|8|9} {1|2|3|4|5|6|7|8|9} {1|2|3|4|5|6|7|8|9} TOK " + "{a|b}" * 40
    made = expanded(text)
    assert len(made) == len(set(made)) == MOST_CAPTIONS
    assert all(caption.startswith("a ") and "{" not in caption for caption in made)


@pytest.mark.parametrize(
    ("caption", "mark"),
    [
        ("1girl, TOK ||| red, blue", "|||"),
        ("a (red:1.2) TOK", "(word:1.2)"),
        ("TOK, [blue : 0.8]", "(word:1.2)"),
        ("((red)) TOK", "((word))"),
        ("TOK <lora:robot:0.8>", "<lora:…>"),
        ("TOK BREAK red", "BREAK"),
        ("TOK, __colours/red__", "__name__"),
        ("embedding:easynegative, TOK", "embedding:name"),
        (r"TOK \(robot\)", r"\("),
        ("TOK on sand --ar 16:9", "--option"),
        ("a [red:blue:0.5] TOK", "[from:to:when]"),
        ("a {red|blue TOK", "one brace of {a|b}"),
        ("a red|blue} TOK", "one brace of {a|b}"),
    ],
)
def test_a_mark_of_another_program_is_named_with_what_it_means(caption: str, mark: str) -> None:
    lines = list(syntax_warnings([("a.png", caption), ("b.png", "a TOK")]))
    assert any(
        line.startswith(f"1 captions contain {mark}, trained as plain text") and "a.png" in line for line in lines
    )


@pytest.mark.parametrize(
    "caption",
    [
        "a TOK (red)",
        "TOK at 10:30",
        "TOK_(series)",
        "break of day, TOK",
        "TOK - red",
        "TOK: a (red, 1.2 m) robot",
        "a | {TOK} | b",
    ],
)
def test_plain_text_is_not_named(caption: str) -> None:
    assert list(syntax_warnings([("a.png", caption)])) == []


@pytest.mark.parametrize("start", ["(a:1", "[a:b:1", "/__a", "|a", "a{"])
def test_a_long_caption_is_searched_at_once(start: str) -> None:
    began = time.process_time()
    assert list(syntax_warnings([("a.png", start[:-1] + start[-1] * 20_000), ("b.png", start * 5_000)])) == []
    assert time.process_time() - began < 5
