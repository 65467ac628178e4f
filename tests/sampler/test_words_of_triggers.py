"""Trigger words in prompts: plain words in their place, and the strength of each."""

import pytest
import torch

from artifact.artifact import Artifact
from artifact.metadata import counted_through
from sampler.prompts.plain_words import with_plain_words
from sampler.prompts.token_strength import parse_token_strength, with_token_strength
from sampler.request import RequestError
from sampler.weights import ScaledArtifact


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


def lora(*words: str, level: float = 1.0) -> ScaledArtifact:
    triggers = counted_through(dict.fromkeys(words, 2))
    return ScaledArtifact(Artifact({}, {"clip_l": torch.full((2 * len(words), 4), level)}, None, triggers), 1.0, "a")


def test_strengths_of_two_loras_with_one_trigger_word() -> None:
    loras = [lora("TOK"), lora("ANNA", "TOK", level=2.0), lora("TOK")]  # the third one is the first one again
    strengths = parse_token_strength("TOK=0.5, TOK2=3, 1")
    scaled = [each.artifact.tokens["clip_l"][:, 0].tolist() for each in with_token_strength(loras, strengths)]
    assert scaled == [[0.5, 0.5], [2.0, 2.0, 6.0, 6.0], [0.5, 0.5]]
    with pytest.raises(RequestError, match="known are ANNA, TOK, TOK2"):
        with_token_strength(loras, {"TOK3": 1.0})
