"""Tests of the share of cross-attention on a word: with equal keys, and for a word that is not in the prompt."""

import pytest
import torch

from benchmarks.learning.word_attention import attention_shares
from families.family import ModelFamily


def test_equal_keys_give_every_position_the_same_share(base: ModelFamily) -> None:
    """The prompt "a photo of star" has 77 positions with start, end and padding: 4 before the word, and 72 after it."""
    own, after = attention_shares(base, "a photo of star on a red background", "star")
    assert own > 0 and after > 0 and own + after < 1
    keys = [module for name, module in base.denoiser.named_modules() if name.endswith("attn2.to_k")]
    kept = [module.weight.detach().clone() for module in keys]
    try:
        for module in keys:
            torch.nn.init.zeros_(module.weight)
        assert attention_shares(base, "a photo of star", "star") == pytest.approx((1 / 77, 72 / 77), rel=1e-4)
    finally:
        for module, weight in zip(keys, kept, strict=True):
            module.weight.data.copy_(weight)


def test_a_word_that_is_not_in_the_prompt_is_an_error(base: ModelFamily) -> None:
    with pytest.raises(ValueError, match="'star' is not in 'a photo of a heart'"):
        attention_shares(base, "a photo of a heart", "star")
