"""Tests of the diffusion process and of its loss, against diffusers and the formulas in float64."""

import pytest
import torch
from diffusers import DDPMScheduler

from families.noise.diffusion_process import DiffusionProcess
from families.noise.noise_process import Draw, PredictionType
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.term import StepContext
from trainer.losses.weighting import Weighting


def process(prediction_type: PredictionType) -> DiffusionProcess:
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    )
    return DiffusionProcess.from_scheduler(scheduler)


def context(prediction_type: PredictionType, prediction: torch.Tensor | None = None) -> StepContext:
    generator = torch.Generator().manual_seed(1)
    latents, noise, guess = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(3))
    draw = Draw(torch.tensor([0, 10, 200, 500, 800, 999]), noise)
    diffusion = process(prediction_type)
    return StepContext(
        [""] * 6,
        [],
        latents,
        draw,
        diffusion.corrupt(latents, draw),
        guess if prediction is None else prediction,
        diffusion,
        None,
        torch.ones(6),
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_right_prediction_gives_the_latents_back(prediction_type: PredictionType) -> None:
    step = context(prediction_type)
    target = step.noise_process.target(step.latents, step.draw)
    restored = step.noise_process.to_x0(step.noised, target, step.draw.timesteps)
    torch.testing.assert_close(restored, step.latents, atol=2e-3, rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_velocity_and_corruption_agree_with_diffusers(prediction_type: PredictionType) -> None:
    step = context(prediction_type)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    )
    torch.testing.assert_close(step.noised, scheduler.add_noise(step.latents, step.draw.noise, step.draw.timesteps))
    if prediction_type == "v_prediction":
        velocity = scheduler.get_velocity(step.latents, step.draw.noise, step.draw.timesteps)
        torch.testing.assert_close(step.noise_process.target(step.latents, step.draw), velocity)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'sample'"):
        process("sample")  # type: ignore[arg-type]


def test_draws_follow_their_generators() -> None:
    diffusion = process("epsilon")
    latents = torch.zeros(3, 4, 8, 8)

    def draw(timestep_seed: int, noise_seed: int) -> Draw:
        return diffusion.draw(
            latents, torch.Generator().manual_seed(timestep_seed), torch.Generator().manual_seed(noise_seed)
        )

    assert torch.equal(draw(1, 2).noise, draw(3, 2).noise)
    assert torch.equal(draw(1, 2).timesteps, draw(1, 3).timesteps)
    assert not torch.equal(draw(1, 2).noise, draw(1, 3).noise)


@pytest.mark.parametrize(
    ("weighting", "gamma"), [("uniform", 5.0), ("min_snr", 1.0), ("min_snr", 5.0), ("debiased", 5.0)]
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_its_formula(prediction_type: PredictionType, weighting: Weighting, gamma: float) -> None:
    step = context(prediction_type)
    alphas = process(prediction_type).alphas_cumprod.double()[step.draw.timesteps]
    latents, noise = step.latents.double(), step.draw.noise.double()
    a, s = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    target = noise if prediction_type == "epsilon" else a * noise - s * latents
    snr = alphas / (1 - alphas)
    weight = torch.ones(6, dtype=torch.float64)
    if weighting == "debiased":
        weight = 1 / snr.sqrt()
    if weighting == "min_snr":
        weight = torch.minimum(snr, torch.tensor(gamma)) / (snr if prediction_type == "epsilon" else snr + 1)
    expected = (weight * (step.prediction.double() - target).square().mean(dim=(1, 2, 3))).mean()
    torch.testing.assert_close(MeanSquaredError(weighting, gamma)(step).double(), expected, rtol=1e-4, atol=1e-7)


def test_a_right_prediction_costs_nothing() -> None:
    step = context("epsilon")
    assert MeanSquaredError("min_snr")(context("epsilon", step.draw.noise)).item() == 0
