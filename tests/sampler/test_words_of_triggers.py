"""Prompts in plain words, for models that do not know a trigger word."""

import pytest

from sampler.prompts.plain_words import with_plain_words


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a photo of TOK on grass", "a photo of a dog on grass"),
        ("The TOK on grass", "The dog on grass"),
        ("A TOK and an OWL1", "A dog and an owl"),
        ("An OWL1, a OWL1", "An owl, an owl"),
        ("this TOK dog, our TOK", "this dog, our dog"),
        ("TOK's hat, the tok", "a dog's hat, the tok"),
    ],
)
def test_the_class_word_takes_the_place_of_the_trigger(prompt: str, plain: str) -> None:
    assert with_plain_words(prompt, {"TOK": "dog", "OWL1": "owl"}) == plain
