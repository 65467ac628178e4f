"""Tests that a model's answer becomes a caption: no opening phrase, and an end after a sentence or a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.captioners.wording import at_most_words, ends_sentence, without_opening, worded


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("The image shows a dog on grass.", "a dog on grass."),
        ("This image features two dogs.", "two dogs."),
        ("The photo depicts a close-up of a dog.", "a dog."),
        ("In this picture, we can see a dog.", "a dog."),
        ("In the image, a dog runs.", "a dog runs."),
        ("This is a photo of a dog.", "a photo of a dog."),
        ("Here is a caption: The image is an illustration of a dog.", "an illustration of a dog."),
        ("there is a arafed man in a suit", "a man in a suit"),
        ("This is blurry.", "This is blurry."),
        ("The painting shows a boat.", "The painting shows a boat."),
        ("  a\n dog ,  a “cat” – and **it’s** `all` .", 'a dog, a "cat" - and it\'s all.'),
        ("a dog a dog a dog on grass", "a dog on grass"),
        ("very very big", "very big"),
        ("A dog sits. A dog sits. A dog sits.", "A dog sits."),
        ("She holds a cat. A cat sleeps.", "She holds a cat. A cat sleeps."),
        ("A dog sits. The grass is", "A dog sits."),
        ('A sign says "Stop!" in red', 'A sign says "Stop!" in red'),
        ("A flag of the U.S. is 1.5 m wide", "A flag of the U.S. is 1.5 m wide"),
        ("The image shows", ""),
        ("", ""),
    ],
)
def test_a_caption_says_only_what_is_there(said: str, caption: str) -> None:
    assert worded(said, at_most_words(50)) == caption


@pytest.mark.parametrize(
    ("said", "most", "caption"),
    [
        ("A dog sits. It looks up. It barks.", 5, "A dog sits."),
        ("A dog sits. It looks up. It barks.", 6, "A dog sits. It looks up."),
        ("A dog that sits on the green grass of a park.", 7, "A dog that sits on the green"),
        ("A dog that sits on the green grass of a park.", 6, "A dog that sits"),
        ("A man, a dog, and a cat sit together.", 5, "A man, a dog"),
        ("Troops of the U.S. Army stand by a wall.", 4, "Troops of the U.S."),
        ("A rope of 1.5 m hangs from a tree.", 4, "A rope of 1.5"),
        ("Dr. Brown sits on a bench. He waits.", 6, "Dr. Brown sits on a bench."),
        ("A dog.", 0, ""),
    ],
)
def test_what_is_too_long_ends_with_a_sentence_or_a_word(said: str, most: int, caption: str) -> None:
    assert worded(said, at_most_words(most)) == caption


def test_any_measure_of_length_can_be_used() -> None:
    assert worded("A dog sits. It looks up.", lambda text: len(text) <= 12) == "A dog sits."


@pytest.mark.parametrize(
    ("word", "ends"),
    [("dog.", True), ('dog."', True), ("dog!", True), ("dog", False), ("1.5", False), ("1.5.", True), ("U.S.", False),
     ("Mr.", False), ("e.g.", False), ("J.", False), ("dog,", False)],
)  # fmt: skip
def test_sentences_end_with_a_full_stop_that_is_no_abbreviation(word: str, ends: bool) -> None:
    assert ends_sentence(word) == ends


PHRASES = [
    "The image shows",
    "This is",
    "a close-up of",
    "a dog",
    "a dog.",
    "A cat sits.",
    "the U.S.",
    "1.5",
    "m",
    "“big”",
]
PHRASES += ["and", "of the", ",", "...", "Dr.", "there is", "image", "!", "**red**", "It is", "In the picture,", "a"]
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PHRASES), max_size=14).map(" ".join))


@given(TEXTS, st.integers(0, 12))
def test_wording_again_changes_nothing_and_nothing_becomes_longer(said: str, most: int) -> None:
    caption = worded(said, at_most_words(most))
    assert worded(caption, at_most_words(most)) == caption
    assert len(caption) <= len(said)
    assert len(caption.split()) <= most or not caption


@given(st.lists(st.sampled_from(PHRASES), max_size=14).map(" ".join), st.integers(1, 12))
def test_numbers_and_abbreviations_stay_whole(said: str, most: int) -> None:
    words = worded(said, at_most_words(most)).split()
    assert {word.strip(',!."') for word in words if word[0] in "U1"} <= {"U.S", "1.5"}
    assert all(word.rstrip(',!"') in ("U.S.", "U.S...") or "U.S..." in word for word in words if word.startswith("U"))


@given(TEXTS)
def test_an_opening_is_taken_off_in_front_only(said: str) -> None:
    assert said.endswith(without_opening(said))
