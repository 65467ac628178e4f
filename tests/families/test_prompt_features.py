"""Tests of prompt features of any length: padding has no effect, and concatenation preserves the features."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from families.family import PromptFeatures


def features(batch: int, length: int, masked: bool = False, pooled: bool = True) -> PromptFeatures:
    generator = torch.Generator().manual_seed(10 * batch + length)
    mask = torch.rand(batch, length, generator=generator) < 0.5 if masked else None
    embeds = torch.randn(batch, length, 3, generator=generator)
    return PromptFeatures(embeds, torch.randn(batch, 2, generator=generator) if pooled else None, mask)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.booleans()), min_size=1, max_size=4), st.booleans())
def test_joined_features_are_those_of_each(shapes: list[tuple[int, int, bool]], pooled: bool) -> None:
    several = [features(batch, length, masked, pooled) for batch, length, masked in shapes]
    whole = PromptFeatures.joined(several)
    assert whole.length == max(each.length for each in several)
    first = 0
    for each in several:
        for row in range(len(each.prompt_embeds)):
            counted = whole.mask[first + row]
            assert counted.sum() == each.mask[row].sum() and not counted[each.length :].any()
            assert torch.equal(whole.prompt_embeds[first + row][counted], each.prompt_embeds[row][each.mask[row]])
        first += len(each.prompt_embeds)
    assert len(whole.prompt_embeds) == first and (whole.pooled_prompt_embeds is not None) == pooled


def test_equal_lengths_need_no_mask() -> None:
    assert PromptFeatures.joined([features(1, 4), features(2, 4)]).prompt_mask is None
    assert features(1, 4).padded(4).prompt_mask is None
    with pytest.raises(ValueError, match="4 positions are more than 3"):
        features(1, 4).padded(3)


def test_rows_in_any_order() -> None:
    some = features(3, 4, masked=True)
    picked = some.rows(torch.tensor([2, 0, 2]))
    assert some.prompt_mask is not None and some.pooled_prompt_embeds is not None
    assert picked.prompt_mask is not None and picked.pooled_prompt_embeds is not None
    for row, source in enumerate([2, 0, 2]):
        assert torch.equal(picked.prompt_embeds[row], some.prompt_embeds[source])
        assert torch.equal(picked.prompt_mask[row], some.prompt_mask[source])
        assert torch.equal(picked.pooled_prompt_embeds[row], some.pooled_prompt_embeds[source])


def test_gradients_of_repeated_prompts_are_the_same_each_time_with_several_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        values = torch.randn(2, 77, 160, generator=torch.Generator().manual_seed(0)).requires_grad_()
        weights = torch.randn(8, 77, 160, generator=torch.Generator().manual_seed(1))
        picked = torch.tensor([0, 1, 1, 0] * 2)
        drawn = [PromptFeatures(values).rows(picked).prompt_embeds for _ in range(100)]
        gradients = [torch.autograd.grad((each * weights).sum(), values)[0] for each in drawn]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
