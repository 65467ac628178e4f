"""Tests of the prompts that are made of captions: dropout rates, and the order of tags."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.prompts import PromptSampler
from trainer.randomness import NamedGenerators

DRAWS = 20_000
SURE = 0.015
"""More than four standard deviations of a share of DRAWS draws."""
TRIGGERS = {"TOK": ["<s0>", "<s1>"], "ANNA": ["<s2>"]}


def sampler(seed: int = 0, **settings: float) -> PromptSampler:
    return PromptSampler(TRIGGERS, NamedGenerators(seed), **settings)  # type: ignore[arg-type]


def shares(prompts: Sequence[str]) -> dict[str, float]:
    return {prompt: count / len(prompts) for prompt, count in Counter(prompts).items()}


@pytest.mark.parametrize(("empty", "alone"), [(0.05, 0.0), (0.1, 0.3), (0.0, 0.25), (0.7, 0.3), (1.0, 0.0)])
def test_captions_give_way_as_often_as_asked(empty: float, alone: float) -> None:
    draw = sampler(caption_dropout=empty, trigger_only_dropout=alone)
    found = shares(draw.prompts(["a TOK dog"] * DRAWS, ["TOK"] * DRAWS))
    wanted = {"": empty, "<s0><s1>": alone, "a <s0><s1> dog": 1 - empty - alone}
    assert set(found) == {prompt for prompt, share in wanted.items() if share > 1e-9}
    for prompt, share in found.items():
        assert share == pytest.approx(wanted[prompt], abs=SURE)


def test_a_preservation_image_never_becomes_the_trigger_alone() -> None:
    draw = sampler(caption_dropout=0.2, trigger_only_dropout=0.8)
    found = shares(draw.prompts(["a dog"] * DRAWS, [None] * DRAWS))
    assert set(found) == {"", "a dog"}
    assert found[""] == pytest.approx(0.2, abs=SURE)


def test_the_trigger_alone_is_that_of_the_image_s_own_concept() -> None:
    draw = sampler(trigger_only_dropout=1.0)
    concepts = ["ANNA", "TOK", None, "ANNA"]
    assert draw.prompts(["ANNA beside TOK", "TOK", "a dog", "x"], concepts) == ["<s2>", "<s0><s1>", "a dog", "<s2>"]


def test_draws_of_the_images_in_a_batch_are_their_own() -> None:
    draw = sampler(caption_dropout=0.5)
    batches = [tuple(draw.prompts(["a"] * 3, ["TOK"] * 3)) for _ in range(400)]
    assert len(set(batches)) == 8


def test_without_dropout_and_shuffling_captions_are_left_as_they_are() -> None:
    caption = "a  photo,of Tokyo , no TOKens,, "
    assert sampler().prompts([caption, ""], ["TOK", None]) == [caption, ""]


def test_every_trigger_becomes_its_tokens() -> None:
    assert sampler().prompts(["ANNA's TOK, Tokyo"], ["TOK"]) == ["<s2>'s <s0><s1>, Tokyo"]


tags = st.lists(st.text("abcdé'- ", min_size=1).map(str.strip).filter(bool), max_size=8)


@given(tags, st.integers(0, 10), st.integers(0, 99))
def test_tags_are_permuted_and_none_is_lost(words: list[str], kept: int, seed: int) -> None:
    draw = sampler(seed, shuffle_tags=True, keep_first_tags=kept)
    (prompt,) = draw.prompts([", ".join(words)], ["TOK"])
    found = prompt.split(", ") if prompt else []
    assert Counter(found) == Counter(words)
    assert found[:kept] == words[:kept]


def test_every_order_comes_up_equally_often() -> None:
    draw = sampler(shuffle_tags=True, keep_first_tags=1)
    found = shares(draw.prompts(["a TOK, red, old, big"] * DRAWS, ["TOK"] * DRAWS))
    orders = {f"a <s0><s1>, {', '.join(order)}" for order in permutations(["red", "old", "big"])}
    assert set(found) == orders
    assert all(share == pytest.approx(1 / 6, abs=SURE) for share in found.values())


def test_nothing_need_be_kept() -> None:
    draw = sampler(shuffle_tags=True, keep_first_tags=0)
    found = set(draw.prompts(["TOK, red"] * 50, ["TOK"] * 50))
    assert found == {"<s0><s1>, red", "red, <s0><s1>"}


def test_loose_commas_are_no_tags() -> None:
    draw = sampler(shuffle_tags=True, keep_first_tags=1)
    assert set(draw.prompts([" TOK ,, red,"] * 20, ["TOK"] * 20)) == {"<s0><s1>, red"}


def test_preservation_captions_are_shuffled_too() -> None:
    draw = sampler(shuffle_tags=True, keep_first_tags=1)
    assert set(draw.prompts(["dog, red, old"] * 50, [None] * 50)) == {"dog, red, old", "dog, old, red"}


def many(seed: int, **settings: float) -> list[str]:
    draw = sampler(seed, **({"caption_dropout": 0.2, "trigger_only_dropout": 0.2, "shuffle_tags": True} | settings))
    return [prompt for _ in range(20) for prompt in draw.prompts(["TOK, red, old, big", "a dog"], ["TOK", None])]


def test_the_same_seed_gives_the_same_prompts_and_another_gives_others() -> None:
    assert many(3) == many(3)
    assert many(3) != many(4)


def test_shuffling_does_not_change_which_captions_are_dropped() -> None:
    shuffled, plain = many(3), many(3, shuffle_tags=False)
    assert [prompt == "" for prompt in shuffled] == [prompt == "" for prompt in plain]
    assert shuffled != plain


def test_as_many_concepts_as_captions_are_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        sampler().prompts(["a", "b"], ["TOK"])
