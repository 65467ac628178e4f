"""Tests of the prompts that prior matching uses, and of the number of images with each kind."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from settings.record import ConfigError
from settings.training import build_config
from trainer.losses.prior.prior_matching import PriorMatching

KEPT = ("a red star", "a blue square")


class Recorder:
    """A family and an adapter that predict the noised latents times 3, or times 2 with the adapter off."""

    def __contains__(self, name: str) -> bool:
        return False

    def __init__(self) -> None:
        self.prompts: list[list[str]] = []
        self.factors: Iterator[int] = iter(())

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        self.prompts.append(list(prompts))
        self.factors = iter((2, 3))  # the base model predicts first
        return list(prompts)

    def denoise(
        self, noised: Tensor, timesteps: Tensor, features: Sequence[str], sizes: Sequence[Any], conditioning: None
    ) -> Tensor:
        assert len(noised) == len(timesteps) == len(features) == len(sizes)
        return noised * next(self.factors)

    def off(self) -> Any:
        return nullcontext()


def term_and_recorder(interval: int = 1, prompts: Sequence[str] = KEPT) -> tuple[PriorMatching, Recorder]:
    recorder, generator = Recorder(), torch.Generator().manual_seed(0)
    term = PriorMatching(recorder, recorder, {"TOK": "robot"}, prompts, generator, 10.0, interval)  # type: ignore[arg-type]
    return term, recorder


def batch(size: int, step: int = 0) -> Any:
    return SimpleNamespace(
        captions=["a photo of TOK"] * size,
        noised=torch.arange(1.0, size + 1).reshape(size, 1, 1, 1),
        draw=SimpleNamespace(timesteps=torch.arange(size)),
        sizes=[None] * size,
        conditioning=None,
        step=step,
    )


def test_every_third_step_counts_three_times() -> None:
    term, recorder = term_and_recorder(interval=3)
    losses = [term(batch(2, step)) for step in range(6)]
    expected = 3 * 10.0 * (1.0 + 4.0) / 2
    assert [None if loss is None else loss.item() for loss in losses] == [expected, None, None] * 2
    assert len(recorder.prompts) == 2  # the steps between have no passes


def test_three_images_show_every_kind_of_prompt() -> None:
    term, recorder = term_and_recorder()
    for _ in range(20):
        term(batch(3))
    for prompts in recorder.prompts:
        assert sorted(map(kind, prompts)) == ["caption", "empty", "kept"]
    assert {prompt for prompts in recorder.prompts for prompt in prompts} == {"a photo of robot", "", *KEPT}


def test_batches_of_one_image_see_every_kind_in_the_end() -> None:
    """SDXL is often trained with batches of one image. With a fixed order, these would never have the empty prompt."""
    term, recorder = term_and_recorder()
    for _ in range(60):
        term(batch(1))
    counts = [sum(kind(prompts[0]) == each for prompts in recorder.prompts) for each in ("caption", "empty", "kept")]
    assert min(counts) > 10


def test_without_prompts_to_keep_there_are_two_kinds() -> None:
    term, recorder = term_and_recorder(prompts=())
    term(batch(4))
    assert sorted(recorder.prompts[0]) == ["", "", "a photo of robot", "a photo of robot"]


def test_an_interval_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="prior_matching_interval"):
        build_config({"prior_matching_weight": 1.0, "prior_matching_interval": 0})


def kind(prompt: str) -> str:
    return "empty" if not prompt else "kept" if prompt in KEPT else "caption"
