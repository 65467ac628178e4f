"""Tests of trigger words in prompts, and of their embedding rows in the text encoders."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families.family import ModelFamily
from families.parts.placeholder_tokens import PlaceholderTokens, expand_triggers

TOK = {"TOK": ["<s0>", "<s1>"]}


@pytest.mark.parametrize(
    ("prompt", "expanded"),
    [
        ("a photo of TOK", "a photo of <s0><s1>"),
        ("TOK, TOK's hat", "<s0><s1>, <s0><s1>'s hat"),
        ("Tokyo, TOKYO, STOKE, TOK2, a_TOK", "Tokyo, TOKYO, STOKE, TOK2, a_TOK"),
        ("tok", "tok"),
        ("(TOK:1.2)", "(<s0><s1>:1.2)"),
        ("", ""),
    ],
)
def test_whole_words_only(prompt: str, expanded: str) -> None:
    assert expand_triggers(prompt, TOK) == expanded


def test_the_longer_trigger_wins() -> None:
    triggers = {"my-robot": ["<s0>"], "my-robot-2": ["<s1>"], "C++": ["<s2>"]}
    assert expand_triggers("my-robot-2 and my-robot and C++ art", triggers) == "<s1> and <s0> and <s2> art"


LIKE_IT = ("TOKEN", "STOK", "tok", "2TOK", "TOK_", "éTOK", "<s0>")
WORDS = st.one_of(st.just("TOK"), st.sampled_from(LIKE_IT), st.text(st.characters(exclude_characters="T"), max_size=8))


@given(st.lists(WORDS, max_size=8))
def test_only_the_trigger_is_replaced_and_all_other_text_stays(words: list[str]) -> None:
    expanded = " ".join("<s0><s1>" if word == "TOK" else word for word in words)
    assert expand_triggers(" ".join(words), TOK) == expanded


def rows(base: ModelFamily, count: int = 2) -> list[torch.Tensor]:
    return [torch.randn(count, encoder.get_input_embeddings().embedding_dim) for encoder in base.text_encoders]


def test_added_and_removed_without_a_trace(base: ModelFamily) -> None:
    before = base.encode_prompts(["a photo of TOK", "a red star"])
    placeholders = PlaceholderTokens(base, ["<s0>", "<s1>"], rows(base))
    during = base.encode_prompts(["a photo of <s0><s1>", "a red star"])
    placeholders.remove()
    after = base.encode_prompts(["a photo of TOK", "a red star"])
    assert torch.equal(before.prompt_embeds, after.prompt_embeds)
    assert before.pooled_prompt_embeds is not None and after.pooled_prompt_embeds is not None
    assert torch.equal(before.pooled_prompt_embeds, after.pooled_prompt_embeds)
    assert torch.equal(before.prompt_embeds[1], during.prompt_embeds[1])
    assert not torch.equal(before.prompt_embeds[0], during.prompt_embeds[0])


def test_each_token_is_one_id_and_pooling_stays_at_the_end(base: ModelFamily) -> None:
    placeholders = PlaceholderTokens(base, ["<s0>", "<s1>"], rows(base))
    try:
        for tokenizer, ids in zip(base.tokenizers, placeholders.ids, strict=True):
            assert tokenizer("a <s0><s1> star", add_special_tokens=False).input_ids[1:3] == ids
        for encoder, tokenizer in zip(base.text_encoders, base.tokenizers, strict=True):
            assert getattr(encoder, "text_model", encoder).eos_token_id == tokenizer.eos_token_id
    finally:
        placeholders.remove()


def test_rows_that_do_not_fit_change_nothing(base: ModelFamily) -> None:
    before = [encoder.get_input_embeddings() for encoder in base.text_encoders]
    good, bad = rows(base)[0], torch.zeros(2, 7)
    with pytest.raises(ValueError, match="do not match"):
        PlaceholderTokens(base, ["<s0>", "<s1>"], [good, bad])
    assert [encoder.get_input_embeddings() for encoder in base.text_encoders] == before
    with pytest.raises(ValueError, match="already"):
        PlaceholderTokens(base, ["<|endoftext|>", "<s1>"], rows(base))
    assert [encoder.get_input_embeddings() for encoder in base.text_encoders] == before


@pytest.mark.parametrize("count", [1, 3])
def test_empty_prompts_are_zeros_as_in_the_bases_training(count: int, base: ModelFamily) -> None:
    features = base.encode_prompts(["", "a red star"] * count)
    assert not features.prompt_embeds[0].any() and features.prompt_embeds[1].any()
    assert features.pooled_prompt_embeds is not None
    assert not features.pooled_prompt_embeds[0].any() and features.pooled_prompt_embeds[1].any()
