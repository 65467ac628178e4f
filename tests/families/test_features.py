"""Tests of batches of prompt features with masks, several text streams and pooled vectors."""

import pytest
import torch
from torch import Tensor

from families.family import PromptFeatures, TextStream


def rows(*lengths: int) -> list[Tensor]:
    return [torch.randn(length, 4, generator=torch.Generator().manual_seed(length)) for length in lengths]


def test_prompts_of_different_lengths_are_padded_and_given_back() -> None:
    given = rows(3, 5, 1)
    features = PromptFeatures.of_lengths(given)
    assert features.prompt_embeds.shape == (3, 5, 4) and features.length == 5
    assert features.mask is not None and features.mask.sum(dim=1).tolist() == [3, 5, 1]
    assert all(torch.equal(one, other) for one, other in zip(features.unpadded(), given, strict=True))


def test_joining_pads_what_is_shorter() -> None:
    given = rows(2, 4)
    one, other = (PromptFeatures.of_lengths([row], pooled=torch.full((1, 2), float(len(row)))) for row in given)
    joined = PromptFeatures.joined([one, other, one])
    assert [len(row) for row in joined.unpadded()] == [2, 4, 2]
    assert joined.pooled_prompt_embeds is not None and joined.pooled_prompt_embeds[:, 0].tolist() == [2, 4, 2]


def test_joining_needs_equal_parts() -> None:
    with pytest.raises(ValueError, match="different parts"):
        PromptFeatures.joined(
            [PromptFeatures(torch.zeros(1, 2, 4)), PromptFeatures(torch.zeros(1, 2, 4), torch.zeros(1, 2))]
        )


def test_streams_are_padded_apart() -> None:
    short, long = (
        PromptFeatures(torch.zeros(1, 2, 4), further={"t5": TextStream(torch.ones(1, length, 3))}) for length in (3, 5)
    )
    joined = PromptFeatures.joined([short, long])
    assert joined.prompt_mask is None and joined.further["t5"].whole_mask.sum(dim=1).tolist() == [3, 5]


def test_rows_and_repeats_take_every_part_along() -> None:
    main = PromptFeatures.of_lengths(rows(1, 2, 3))
    further = {"t5": TextStream(torch.arange(6.0).view(3, 2, 1), torch.tensor([[True, False]] * 3))}
    features = PromptFeatures(main.prompt_embeds, torch.arange(3.0).view(3, 1), main.mask, further)
    chosen = features.rows(torch.tensor([2, 0, 2]))
    assert [len(row) for row in chosen.unpadded()] == [3, 1, 3] and len(chosen) == 3
    assert chosen.pooled_prompt_embeds is not None and chosen.pooled_prompt_embeds.flatten().tolist() == [2, 0, 2]
    assert chosen.further["t5"].values[:, 0, 0].tolist() == [4, 0, 4]
    assert [len(row) for row in features.repeated(2).unpadded()] == [1, 1, 2, 2, 3, 3]
    assert len(features.tensors) == 3 and features.further["t5"].length == 2


def test_moving_moves_every_part() -> None:
    meta = torch.device("meta")
    main = PromptFeatures.of_lengths(rows(1, 2))
    moved = PromptFeatures(main.prompt_embeds, torch.zeros(2, 1), main.mask, {"t5": main.stream}).to(meta)
    assert moved.mask is not None and moved.mask.device == meta
    assert all(each.device == meta for each in moved.tensors) and moved.further["t5"].mask is not None


def test_noise_leaves_padding_alone() -> None:
    features = PromptFeatures.of_lengths(rows(2, 4))
    noisy = features.with_noise(torch.ones(2, 4, 4), 0.5)
    difference = noisy.prompt_embeds - features.prompt_embeds
    assert not difference[0, 2:].any()
    torch.testing.assert_close(difference[0, 0, 0], 0.5 * rows(2)[0].std())
