"""Tests of Stable Cascade's noise process against diffusers' scheduler and the formulas of the original code."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, DDPMWuerstchenScheduler

from families.cascade.scheduler import ShiftedCosineScheduler
from families.noise.cosine_process import CosineProcess
from families.noise.noise_process import Draw
from sampler.schedulers import build_scheduler, known_schedulers
from trainer.losses.weighting import TimestepWeighting


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noised_latents_are_those_of_diffusers_scheduler() -> None:
    scheduler = DDPMWuerstchenScheduler()
    process = CosineProcess.from_scheduler(scheduler)
    latents, noise = torch.randn(7, 16, 4, 4, generator=seeded(0)), torch.randn(7, 16, 4, 4, generator=seeded(1))
    times = torch.tensor([0.001, 0.1, 0.2, 0.5, 0.9, 0.99, 1.0])
    draw = Draw(1000 * times, noise)
    torch.testing.assert_close(process.corrupt(latents, draw), scheduler.add_noise(latents, noise, times))
    assert process.target(latents, draw) is noise
    alphas = torch.tensor([0.9999, 0.972093, 0.898706, 0.493844, 0.024092, 0.000243, 0.0001])
    torch.testing.assert_close(process.alphas(times), alphas, rtol=2e-3, atol=1e-6)


def test_a_sampler_that_predicts_the_noise_comes_back_to_the_latents() -> None:
    """With the true ε, the next latents of a scheduler step have the mean and the deviation of the posterior (Ho et al.
    2020, eq. 7)."""
    scheduler = ShiftedCosineScheduler(logsnr_shift=2.0)
    process = CosineProcess.from_scheduler(scheduler)
    scheduler.set_timesteps(5)
    latents, noise = torch.randn(1, 4, 64, 64, generator=seeded(0)), torch.randn(1, 4, 64, 64, generator=seeded(1))
    time, following = scheduler.timesteps[1], scheduler.timesteps[2]
    noised = process.corrupt(latents, Draw(1000 * time[None], noise))
    stepped = scheduler.step(noise, time[None], noised, generator=seeded(2)).prev_sample
    alpha, next_alpha = (float(process.alphas(each.double())) for each in (time, following))
    kept = alpha / next_alpha
    mean = math.sqrt(kept) * (1 - next_alpha) / (1 - alpha) * noised
    mean = mean + math.sqrt(next_alpha) * (1 - kept) / (1 - alpha) * latents
    deviation = math.sqrt((1 - kept) * (1 - next_alpha) / (1 - alpha))
    assert (stepped - mean).std() == pytest.approx(deviation, rel=0.03)
    torch.testing.assert_close(
        (stepped - mean) / deviation, torch.randn(mean.shape, generator=seeded(2)), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("shift", "first", "last"),
    [(2.0, [0.994, 0.975, 0.950, 0.924], [0.202, 0.106, 0.0071]), (1.0, [0.994, 0.95, 0.90], [0.1, 0.05, 0.0023])],
)
def test_steps_are_those_of_the_original(shift: float, first: list[float], last: list[float]) -> None:
    scheduler = build_scheduler("base", ShiftedCosineScheduler(logsnr_shift=shift))
    scheduler.set_timesteps(20)
    times = scheduler.timesteps
    assert len(times) == 21 and (times.diff() < 0).all()
    assert times[: len(first)].tolist() == pytest.approx(first, abs=6e-4)
    assert times[-len(last) :].tolist() == pytest.approx(last, abs=6e-4)
    process = CosineProcess()
    middle = process.alphas(times[1:-1].double()).logit() + 2 * math.log(shift)
    plain = process.alphas(torch.linspace(1, 0, 21, dtype=torch.float64)[1:-1]).logit()
    unclamped = middle < 9
    torch.testing.assert_close(middle[unclamped], plain[unclamped], rtol=0, atol=2e-3)


def test_draws_are_uniform_and_never_without_noise() -> None:
    draw = CosineProcess().draw(torch.zeros(20_000, 1, 1, 1), seeded(0), seeded(1))
    fractions = draw.timesteps / 1000
    assert fractions.min() >= 0.001 and fractions.max() == 1
    assert fractions.mean() == pytest.approx(0.501, abs=0.01) and fractions.std() == pytest.approx(12**-0.5, abs=0.01)


def test_p2_is_the_share_of_noise() -> None:
    """The weights are (1 + SNR)^-1 = 1 - ᾱ. Their mean over t is .506."""
    process = CosineProcess()
    timesteps = torch.linspace(1, 1000, 1000)
    weights = TimestepWeighting("p2", 1.0)(process, timesteps)
    assert isinstance(weights, torch.Tensor)
    torch.testing.assert_close(weights, 1 - process.alphas(timesteps / 1000), rtol=1e-4, atol=1e-6)
    assert weights.mean() == pytest.approx(0.506, abs=0.002)


def test_the_time_of_a_noise_level_is_found_again() -> None:
    process = CosineProcess()
    times = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(process.times(process.alphas(times)), times)
    shown = process.shown(torch.tensor([0.0, 1.0, 500.0, 1000.0]))
    assert shown.tolist() == pytest.approx([0.00226, 0.00226, 0.5, 0.99358], abs=1e-5)


def test_only_its_own_scheduler_fits() -> None:
    assert known_schedulers(ShiftedCosineScheduler()) == ("base",)
    with pytest.raises(ValueError, match="DDPMScheduler is not a scheduler of a cosine diffusion"):
        CosineProcess.from_scheduler(DDPMScheduler())
