"""What prior matching shows the model: which prompts, for how many images."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from preprocess.settings import ConfigError
from trainer.config import build_config
from trainer.losses.prior_matching import PriorMatching

KEPT = ("a red star", "a blue square")


class Recorder:
    """A family and an adapter that predict the noised latents times 3, or times 2 with the adapter off."""

    text_encoder_parameters = ()

    def __init__(self) -> None:
        self.prompts: list[list[str]] = []
        self.factors: Iterator[int] = iter(())

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        self.prompts.append(list(prompts))
        self.factors = iter((2, 3))  # the teacher is asked first
        return list(prompts)

    def denoise(self, noised: Tensor, timesteps: Tensor, features: Sequence[str], sizes: Sequence[Any]) -> Tensor:
        assert len(noised) == len(timesteps) == len(features) == len(sizes)
        return noised * next(self.factors)

    def off(self) -> Any:
        return nullcontext()


def term_and_recorder(share: float, prompts: Sequence[str] = KEPT) -> tuple[PriorMatching, Recorder]:
    recorder, generator = Recorder(), torch.Generator().manual_seed(0)
    term = PriorMatching(recorder, recorder, {"TOK": "robot"}, prompts, generator, 10.0, share)  # type: ignore[arg-type]
    return term, recorder


def batch(size: int) -> Any:
    return SimpleNamespace(
        captions=["a photo of TOK"] * size,
        noised=torch.arange(1.0, size + 1).reshape(size, 1, 1, 1),
        draw=SimpleNamespace(timesteps=torch.arange(size)),
        sizes=[None] * size,
    )


@pytest.mark.parametrize(("share", "size", "seen"), [(1.0, 8, 8), (0.375, 8, 3), (0.25, 1, 1), (0.01, 8, 1)])
def test_the_share_of_a_batch_that_is_looked_at(share: float, size: int, seen: int) -> None:
    term, recorder = term_and_recorder(share)
    loss = term(batch(size))
    assert [len(prompts) for prompts in recorder.prompts] == [seen]
    squares = torch.arange(1.0, seen + 1).square()
    assert loss.item() == pytest.approx(10.0 * squares.mean().item())


def test_three_images_show_every_kind_of_prompt() -> None:
    term, recorder = term_and_recorder(0.375)
    for _ in range(20):
        term(batch(8))
    for prompts in recorder.prompts:
        assert sorted(map(kind, prompts)) == ["caption", "empty", "kept"]
    assert {prompt for prompts in recorder.prompts for prompt in prompts} == {"a photo of robot", "", *KEPT}


def test_batches_of_one_image_see_every_kind_in_the_end() -> None:
    """A training of SDXL often has batches of one; a fixed turn would never show it the empty prompt."""
    term, recorder = term_and_recorder(1.0)
    for _ in range(60):
        term(batch(1))
    counts = [sum(kind(prompts[0]) == each for prompts in recorder.prompts) for each in ("caption", "empty", "kept")]
    assert min(counts) > 10


def test_without_prompts_to_keep_there_are_two_kinds() -> None:
    term, recorder = term_and_recorder(1.0, prompts=())
    term(batch(4))
    assert sorted(recorder.prompts[0]) == ["", "", "a photo of robot", "a photo of robot"]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_above_zero_and_at_most_one(share: float) -> None:
    with pytest.raises(ConfigError, match="prior_matching_share"):
        build_config({"prior_matching_weight": 1.0, "prior_matching_share": share})


def test_a_share_without_prior_matching_is_an_error() -> None:
    with pytest.raises(ConfigError, match="prior_matching_share has no effect with prior_matching_weight 0"):
        build_config({"prior_matching_share": 0.5})


def kind(prompt: str) -> str:
    return "empty" if not prompt else "kept" if prompt in KEPT else "caption"
