"""Tests of captions after the trigger word is added: properties of any caption, and examples of written sentences."""

import re
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from preprocess.captions.labels import label, preservation_label
from preprocess.captions.pairing import Caption
from preprocess.captions.placeholders import fill_places
from preprocess.captions.trigger import class_template, has_trigger, template, with_affixes, with_trigger
from preprocess.captions.wildcards import has_wildcard
from preprocess.errors import DatasetError
from settings.concepts import require_single_word
from settings.preparation import DataConfig
from settings.record import build_settings


def is_allowed(trigger: str) -> bool:
    """Whether the settings accept `trigger`, unchanged apart from its NFC normalisation."""
    try:
        return require_single_word(trigger) == unicodedata.normalize("NFC", trigger)
    except ValueError:
        return False


MODES = ["face", "object", "style"]
HARD_TRIGGERS = [
    "TOK",
    "c++",
    "my-robot",
    "T.O.K.",
    "^_^",
    "$1",
    "\\d+",
    "Öl",
    "トク",
]

modes = st.sampled_from(MODES)
triggers = st.sampled_from(HARD_TRIGGERS) | st.text(min_size=1, max_size=12).filter(lambda text: is_allowed(text))
class_words = st.none() | st.sampled_from(["dog", "woman", "C#", "oil painting", "(x)"])
words = st.sampled_from(
    [
        "a",
        "dog",
        "tok",
        "TOK",
        "Tokyo",
        "woman",
        "man",
        "mandolin",
        "dog's",
        "dogs",
        "on",
        "grass,",
        "red.",
        "c++",
        "x|y",
    ]
)
sentences = st.lists(words, max_size=12).map(" ".join) | st.text(max_size=60)


def settings_of(**values: object) -> DataConfig:
    return build_settings(DataConfig, {"captioner": "none"} | values)


def holds_whole_word(text: str, word: str) -> bool:
    """Whether `word` occurs somewhere without a letter, digit or _ on either side. Does not use the tested patterns."""
    places = [place for place in range(len(text)) if text.startswith(word, place)]
    return any(
        not is_word_sign(text[place - 1 : place]) and not is_word_sign(text[place + len(word) : place + len(word) + 1])
        for place in places
    )


def is_word_sign(sign: str) -> bool:
    return sign == "_" or sign.isalnum() or bool(re.fullmatch(r"\w", sign))


@given(sentences, triggers, class_words, modes)
def test_the_trigger_is_a_whole_word_of_every_caption(
    text: str, trigger: str, class_word: str | None, mode: str
) -> None:
    assert holds_whole_word(with_trigger(text, trigger, class_word, mode), trigger)


@given(sentences, triggers, class_words, modes)
def test_a_second_time_changes_nothing(text: str, trigger: str, class_word: str | None, mode: str) -> None:
    once = with_trigger(text, trigger, class_word, mode)
    assert with_trigger(once, trigger, class_word, mode) == once


@given(sentences, triggers, class_words, modes)
def test_nothing_of_a_caption_is_lost(text: str, trigger: str, class_word: str | None, mode: str) -> None:
    assume(trigger.casefold() not in text.casefold() and trigger.lower() not in text.lower())
    result = with_trigger(text, trigger, class_word, mode)
    assert any(result.startswith(text[:place]) and result.endswith(text[place:]) for place in range(len(text) + 1))


@given(sentences, triggers, class_words, modes)
def test_a_caption_with_the_trigger_is_left_alone(text: str, trigger: str, class_word: str | None, mode: str) -> None:
    caption = f"{text} {trigger}, {text}"
    assert with_trigger(caption, trigger, class_word, mode) == caption


@pytest.mark.parametrize("text", ["Tokyo", "a street in TOKYO", "TOKens", "my_TOK", "TOK2", "ATOK", "éTOK"])
def test_what_only_contains_the_letters_is_no_trigger(text: str) -> None:
    assert not has_trigger(text, "TOK")
    assert with_trigger(text, "TOK", None, "object") == f"TOK, {text}"


@pytest.mark.parametrize("text", ["TOK", "(TOK)", "TOK's hat", "a TOK.", "TOK-like", "“TOK”", "red,TOK,blue"])
def test_punctuation_around_a_trigger_is_no_part_of_it(text: str) -> None:
    assert has_trigger(text, "TOK")


@pytest.mark.parametrize(
    ("trigger", "text", "expected"),
    [
        ("c++", "a book about c", "c++, a book about c"),
        ("c++", "a book about C++ on a desk", "a book about c++ on a desk"),
        ("a.b", "a photo of axb", "a.b, a photo of axb"),
        ("x|y", "x", "x|y, x"),
        ("\\1", "a dog", "\\1, a dog"),
        ("\\D", "a \\d here", "a \\D here"),
        ("my-robot", "My-Robot on grass", "my-robot on grass"),
        ("my-robot", "my robot on grass", "my-robot, my robot on grass"),
        ("ÖL", "ein öl", "ein ÖL"),
    ],
)
def test_a_trigger_is_its_letters_and_no_pattern(trigger: str, text: str, expected: str) -> None:
    assert with_trigger(text, trigger, None, "object") == expected


@pytest.mark.parametrize(
    ("text", "mode", "class_word", "expected"),
    [
        ("a brown dog and a dog", "object", "dog", "a brown TOK dog and a dog"),
        ("dogs on grass", "object", "dog", "TOK, dogs on grass"),
        ("the dog's bowl", "object", "dog", "the TOK dog's bowl"),
        ("Dog", "object", "dog", "TOK Dog"),
        ("an oil painting of a house", "object", "oil painting", "an TOK oil painting of a house"),
        ("a man on a beach", "object", None, "TOK, a man on a beach"),
        ("a man and a woman", "face", None, "a TOK man and a woman"),
        ("a woman and a man", "face", None, "a TOK woman and a man"),
        ("a man and a woman", "face", "woman", "a man and a TOK woman"),
        ("a girl's face", "face", None, "a TOK girl's face"),
        ("a salesperson", "face", None, "TOK, a salesperson"),
        ("a dog", "style", "dog", "a dog, in the style of TOK"),
        ("in the style of tok", "style", None, "in the style of TOK"),
        ("tok and Tok", "object", "dog", "TOK and TOK"),
    ],
)
def test_where_the_trigger_goes(text: str, mode: str, class_word: str | None, expected: str) -> None:
    assert with_trigger(text, "TOK", class_word, mode) == expected


@pytest.mark.parametrize(
    ("mode", "class_word", "own", "prior"),
    [
        ("object", None, "a photo of TOK", ""),
        ("object", "dog", "a photo of TOK dog", "a photo of dog"),
        ("face", "woman", "a photo of TOK woman", "a photo of woman"),
        ("style", None, "a picture in the style of TOK", ""),
        ("style", "watercolour", "a picture in the style of TOK", "a picture in the style of watercolour"),
    ],
)
def test_what_an_image_without_a_caption_is_called(mode: str, class_word: str | None, own: str, prior: str) -> None:
    assert template(mode, "TOK", class_word) == with_trigger("", "TOK", class_word, mode) == own
    assert class_template(mode, class_word) == prior


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("photo", "", "photo, a TOK dog"),
        ("", "film grain", "a TOK dog, film grain"),
        ("photo of", "on film", "photo of, a TOK dog, on film"),
        ("photo,", ", on film", "photo, a TOK dog, on film"),
        ("Photo.", ".", "Photo. a TOK dog."),
        ("look:", "!", "look: a TOK dog!"),
        ("  ", "\t", "a TOK dog"),
    ],
)
def test_affixes_bring_their_own_punctuation_or_get_a_comma(prefix: str, suffix: str, expected: str) -> None:
    assert with_affixes("a TOK dog", prefix, suffix) == expected


def test_affixes_of_nothing() -> None:
    assert with_affixes("", "photo", "sharp") == "photo, sharp"
    assert with_affixes("", "", "") == ""


@given(sentences, st.text(max_size=20), st.text(max_size=20), triggers, modes)
@example("a dog", "photo", "film grain", ":tok:", "object")
def test_affixes_keep_caption_and_trigger(text: str, prefix: str, suffix: str, trigger: str, mode: str) -> None:
    caption = with_trigger(text, trigger, None, mode)
    result = with_affixes(caption, prefix, suffix)
    assert caption in result and result.startswith(prefix.strip()) and result.endswith(suffix.strip())
    assert has_trigger(result, trigger)


@given(sentences, triggers, class_words, modes, st.sampled_from(["", "photo", "a sketch:"]))
def test_every_label_of_a_concept_calls_it(
    text: str, trigger: str, class_word: str | None, mode: str, prefix: str
) -> None:
    config = settings_of(trigger_word=trigger, class_word=class_word, concept_mode=mode, caption_prefix=prefix)
    given_label = label("a.png", Caption(text, "a.txt"), None, 3, config)
    assert given_label.concept == trigger and given_label.repeats == 3 and given_label.source == "a.txt"
    assert has_trigger(given_label.caption, trigger) and given_label.caption.startswith(prefix)


@pytest.mark.parametrize("affixes", [{"caption_prefix": "photo of TOK"}, {"caption_suffix": "photo of TOK"}])
def test_a_trigger_in_an_affix_is_not_inserted_once_more(affixes: dict[str, str]) -> None:
    labelled = label("a.png", Caption("a dog on grass", "a.txt"), None, 1, settings_of(class_word="dog", **affixes))
    assert labelled.caption in ("photo of TOK, a dog on grass", "a dog on grass, photo of TOK")
    assert labelled.warnings == ()


def test_only_what_the_user_wrote_is_complained_about() -> None:
    config = settings_of(class_word="dog")
    own = label("a.png", Caption("a dog", "a.txt"), None, 1, config)
    assert own.warnings == ("a.png: its caption from a.txt lacks the trigger word TOK; trained as 'a TOK dog'",)
    generated = label("a.png", None, Caption("a dog", "florence-2"), 1, config)
    assert (generated.caption, generated.source, generated.warnings) == ("a TOK dog", "florence-2", ())
    templated = label("a.png", None, None, 1, config)
    assert (templated.caption, templated.source, templated.warnings) == ("a photo of TOK dog", "template", ())


def test_the_user_s_own_caption_wins_over_the_captioner_s() -> None:
    chosen = label("a.png", Caption("a TOK", "a.txt"), Caption("a cat", "florence-2"), 1, settings_of())
    assert (chosen.caption, chosen.source) == ("a TOK", "a.txt")


@given(sentences, class_words)
def test_no_trigger_is_put_into_a_preservation_caption(text: str, class_word: str | None) -> None:
    assume(not has_wildcard(text) and fill_places(text, class_word, class_word) == text)
    config = settings_of(class_word=class_word, preservation_data="x.zip", caption_prefix="TOK style")
    kept = preservation_label("a.png", Caption(text, "a.txt"), None, 2, config)
    assert (kept.caption, kept.concept, kept.repeats) == (text, None, 2)
    assert bool(kept.warnings) == holds_whole_word(text, "TOK")


@pytest.mark.parametrize("text", ["a photo of {}", "a photo of [trigger]", "a photo of {|}{}"])
def test_the_placeholder_of_a_trigger_is_the_class_in_a_preservation_caption(text: str) -> None:
    config = settings_of(class_word="dog", preservation_data="x.zip")
    assert preservation_label("a.png", Caption(text, "a.txt"), None, 1, config).caption == "a photo of dog"
    bare = settings_of(preservation_data="x.zip")
    assert preservation_label("a.png", Caption(text, "a.txt"), None, 1, bare).caption == "a photo of"


def test_a_preservation_image_without_a_caption_is_called_by_its_class() -> None:
    config = settings_of(class_word="dog", preservation_data="x.zip")
    assert preservation_label("a.png", None, None, 1, config).caption == "a photo of dog"
    generated = preservation_label("a.png", None, Caption("a cat", "florence-2"), 1, config)
    assert (generated.caption, generated.source) == ("a cat", "florence-2")


def test_every_trigger_in_a_preservation_caption_is_named() -> None:
    concepts = [{"trigger_word": "ANNA"}, {"trigger_word": "BEN"}]
    config = settings_of(concepts=concepts, preservation_data="x.zip")
    warnings = preservation_label("a.png", Caption("ANNA beside BEN", "a.txt"), None, 1, config).warnings
    assert [
        "ANNA, so that the image is trained as the concept" in warnings[0],
        "BEN, so that the image is trained as the concept" in warnings[1],
    ] == [True, True]
    assert all(warning.startswith("a.png: ") for warning in warnings)


def test_an_image_that_names_no_concept_is_an_error_with_a_remedy() -> None:
    config = settings_of(concepts=[{"trigger_word": "ANNA"}, {"trigger_word": "BEN", "folder": "ben"}])
    with pytest.raises(DatasetError, match=r"x/a\.png: belongs to no concept; move it to one of .*ANNA.*ben, or add"):
        label("x/a.png", Caption("a portrait of Annabel", "a.txt"), None, 1, config)
