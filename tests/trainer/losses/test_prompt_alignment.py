"""Tests of prompt alignment against its closed form, for every prediction type."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from families.noise.noise_process import Draw, NoiseProcess
from settings.record import ConfigError
from settings.training import build_config
from tests.trainer.losses.test_direct_consistency import PROCESSES, step_of
from tests.trainer.losses.test_masked_loss import ALPHAS
from trainer.losses.prior.prompt_alignment import PromptAlignment
from trainer.losses.term import StepContext

WEIGHT = 0.3


def snr_of(process: NoiseProcess, timestep: float) -> float:
    if process.prediction_type == "flow":
        return ((1 - timestep / 50) / (timestep / 50)) ** 2
    return float(ALPHAS[int(timestep)] / (1 - ALPHAS[int(timestep)]))


class Model:
    """Predicts noise that depends on the prompts and on whether the adapter is on. Records its calls."""

    def __init__(self, process: NoiseProcess) -> None:
        self.process, self.is_off = process, False
        self.asked: list[tuple[bool, list[str], Tensor, Tensor]] = []

    @contextmanager
    def off(self) -> Iterator[None]:
        self.is_off = True
        yield
        self.is_off = False

    def encode_prompts(self, prompts: list[str]) -> list[str]:
        return prompts

    def noise(self, prompts: Sequence[str], noised: Tensor) -> Tensor:
        said = torch.tensor([float(sum(map(ord, prompt)) % 7 + 1) for prompt in prompts]).view(-1, 1, 1, 1)
        return noised.sin() * said + (0.0 if self.is_off else 0.4)

    def denoise(self, noised: Tensor, timesteps: Tensor, prompts: list[str], *_rest: object) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked.append((self.is_off, list(prompts), noised, timesteps))
        snr = torch.tensor([snr_of(self.process, float(each)) for each in timesteps]).view(-1, 1, 1, 1)
        noise = self.noise(prompts, noised)
        if self.process.prediction_type == "epsilon":
            return noise
        if self.process.prediction_type == "flow":
            sigma = 1 / (1 + snr.sqrt())
            return noise - (noised - sigma * noise) / (1 - sigma)
        alpha, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
        return alpha * noise - sigma * (noised - sigma * noise) / alpha


def term(model: Model, seed: int = 3) -> PromptAlignment:
    prompts = ("a sketch of TOK in Paris", "zwx and TOK")
    placeholders, words = {"TOK": ["<s0>", "<s1>"], "zwx": []}, {"TOK": "dog", "zwx": "cat"}
    generator = torch.Generator().manual_seed(seed)
    return PromptAlignment(model, model, prompts, placeholders, words, generator, WEIGHT, interval=2)  # type: ignore[arg-type]


def with_gradient(process: NoiseProcess) -> StepContext:
    step = step_of(process)
    return replace(step, prediction=step.prediction.detach().clone().requires_grad_())


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.prediction_type)
def test_its_gradient_is_the_closed_form(process: NoiseProcess) -> None:
    """The gradient is -weight · interval · w · (ε_base - ε_own) · σ for ε; for the other types it follows by the chain
    rule for x̂₀."""
    step, model = with_gradient(process), Model(process)
    loss = term(model)(step)
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, step.prediction)
    kinds = [(off, prompts[0] == "") for off, prompts, _, _ in model.asked]
    assert kinds == [(False, False), (False, True), (True, False), (True, True)]
    own, base = model.asked[0][1], model.asked[2][1]
    assert {(a, b) for a, b in zip(own, base, strict=True)} <= {
        ("a sketch of <s0><s1> in Paris", "a sketch of dog in Paris"),
        ("zwx and <s0><s1>", "cat and dog"),
    }
    noised, later = model.asked[0][2], model.asked[0][3]
    assert all(torch.equal(each[2], noised) and torch.equal(each[3], later) for each in model.asked)
    plain, total = [""] * 3, 0.0

    def guided(prompts: Sequence[str], guidance: float) -> Tensor:
        return model.noise(plain, noised) + guidance * (model.noise(prompts, noised) - model.noise(plain, noised))

    ours = guided(own, 7.5)
    model.is_off = True
    difference = guided(base, 15.0) - ours
    for image, (now, then) in enumerate(zip(step.draw.timesteps.tolist(), later.tolist(), strict=True)):
        snr, sigma_then = snr_of(process, now), noise_share(process, then)
        weight = sigma_then**2
        if process.prediction_type == "flow":
            sigma = now / 50
            slope = -sigma * (1 - sigma)  # x̂₀ = x_t - σ v, and α = 1 - σ
        else:
            alpha, sigma = (snr / (1 + snr)) ** 0.5, (1 / (1 + snr)) ** 0.5
            slope = -sigma * (1.0 if process.prediction_type == "epsilon" else alpha)
        wanted = 2 * WEIGHT * weight * slope * difference[image] / difference.numel()
        torch.testing.assert_close(gradient[image], wanted, rtol=2e-3, atol=1e-6)
        total += float(2 * WEIGHT * weight * difference[image].square().sum() / difference.numel())
    assert float(loss.detach()) == pytest.approx(total, rel=1e-3)


def noise_share(process: NoiseProcess, timestep: float) -> float:
    snr = snr_of(process, timestep)
    return float(1 / (1 + snr**0.5) if process.prediction_type == "flow" else (1 / (1 + snr)) ** 0.5)


def test_it_skips_steps_and_a_seed_is_one_draw() -> None:
    process = PROCESSES[0]
    step, model = with_gradient(process), Model(process)
    assert term(model)(replace(step, step=1)) is None and not model.asked
    losses = [term(Model(process), seed)(step) for seed in (1, 1, 2)]
    first, again, other = (loss.item() for loss in losses if loss is not None)
    assert first == again != other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_prompts": ("a sketch of TOK",)}, "go together"),
        ({"prompt_alignment_weight": 0.3}, "go together"),
        ({"prompt_alignment_interval": 3}, "no effect with prompt_alignment_weight 0"),
        (
            {"target_prompts": ("a dog",), "prompt_alignment_weight": 0.3},
            "'a dog' does not contain the trigger word TOK",
        ),
        (
            {"target_prompts": ("TOKENS in a row",), "prompt_alignment_weight": 0.3},
            "'TOKENS in a row' does not contain the trigger word TOK",
        ),
        ({"target_prompts": ("a TOK",), "prompt_alignment_weight": 0.3, "adapter": "t-lora"}, "with adapter: t-lora"),
        ({"target_prompts": ("a TOK",), "prompt_alignment_weight": 0.3, "adapter": "none"}, "with adapter: none"),
    ],
)
def test_what_has_no_meaning_is_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(values)


def test_an_image_is_aligned_with_prompts_of_its_own_concept_and_others_are_left_alone() -> None:
    """Several concepts in one run, and images of a preservation set."""
    process = PROCESSES[0]
    captions = ["a zwx at night", "a dog, of the preservation set", "TOKyo", "zwx and TOK"]
    for seed in range(4):
        step, model = with_gradient(process), Model(process)
        rows = {name: getattr(step, name)[[0, 1, 2, 0]] for name in ("latents", "noised")}
        draw = Draw(step.draw.timesteps[[0, 1, 2, 0]], step.draw.noise[[0, 1, 2, 0]])
        prediction = step.prediction.detach()[[0, 1, 2, 0]].requires_grad_()
        step = replace(step, captions=captions, prediction=prediction, draw=draw, sizes=[step.sizes[0]] * 4, **rows)
        loss = term(model, seed)(step)
        assert loss is not None
        (gradient,) = torch.autograd.grad(loss, prediction)
        assert gradient.flatten(1).any(dim=1).tolist() == [True, False, False, True]
        assert model.asked[0][1][0] == "zwx and <s0><s1>"  # the other prompt does not contain zwx
