"""Tests of the properties of all noise processes, and of the formulas of each in float64."""

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from families.noise.cosine_process import CosineProcess
from families.noise.diffusion_process import DiffusionProcess
from families.noise.flow_matching import FlowMatching, shift_by_tokens
from families.noise.noise_process import Draw, NoiseProcess

SHAPE = torch.Size((4, 4, 8, 8))

SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def diffusion(prediction_type: str = "epsilon", *, zero_terminal_snr: bool = False) -> DiffusionProcess:
    return DiffusionProcess.from_scheduler(
        DDPMScheduler(**SCALED_LINEAR, prediction_type=prediction_type, rescale_betas_zero_snr=zero_terminal_snr)
    )


PROCESSES: dict[str, NoiseProcess] = {
    "epsilon": diffusion(),
    "v": diffusion("v_prediction"),
    "v at zero terminal SNR": diffusion("v_prediction", zero_terminal_snr=True),
    "cosine": CosineProcess.from_scheduler(DDPMWuerstchenScheduler()),
    "flow": FlowMatching(),
    "shifted flow": FlowMatching(shift=3.0),
    "flow shifted by tokens": FlowMatching(shift_by_tokens(2, (16, 0.5), (256, 1.15))),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alphas_cumprod() -> torch.Tensor:
    """Return ᾱ of Stable Diffusion in float64: the square roots of the betas are linear."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return (1 - betas).cumprod(dim=0)


@each_process
def test_the_target_gives_the_latents_back(process: NoiseProcess) -> None:
    latents = torch.randn(64, 4, 8, 8, generator=seeded(0), dtype=torch.float64)
    draw = process.draw(latents, seeded(1), seeded(2))
    noised, target = process.corrupt(latents, draw), process.target(latents, draw)
    torch.testing.assert_close(process.to_x0(noised, target, draw.timesteps), latents, atol=1e-4, rtol=0)


@each_process
def test_snr_is_that_of_what_corrupt_does(process: NoiseProcess) -> None:
    timesteps = process.timesteps_at(torch.tensor([0.05, 0.3, 0.5, 0.9]), SHAPE)
    ones, zeros = torch.ones(4, 1, 1, 1), torch.zeros(4, 1, 1, 1)
    signal = process.corrupt(ones, Draw(timesteps, zeros)).flatten()
    noise = process.corrupt(zeros, Draw(timesteps, ones)).flatten()
    torch.testing.assert_close(process.snr(timesteps), (signal / noise).square(), rtol=1e-3, atol=1e-7)
    assert (process.snr(timesteps).diff() < 0).all()


@each_process
def test_timesteps_lie_within_the_schedule_and_follow_their_generator(process: NoiseProcess) -> None:
    latents = torch.zeros(2000, 1, 2, 2)
    draws = [process.draw(latents, seeded(seed), seeded(9)) for seed in (1, 1, 2)]
    timesteps = draws[0].timesteps
    assert timesteps.shape == (2000,) and timesteps.min() >= 0 and timesteps.max() <= process.num_timesteps
    assert torch.equal(timesteps, draws[1].timesteps) and not torch.equal(timesteps, draws[2].timesteps)
    assert torch.equal(draws[0].noise, draws[2].noise)
    assert timesteps.dtype == (torch.int64 if isinstance(process, DiffusionProcess) else torch.float32)


def test_a_diffusions_snr_is_its_formula() -> None:
    alphas = alphas_cumprod()
    timesteps = torch.arange(1000)
    torch.testing.assert_close(diffusion().snr(timesteps).double(), alphas / (1 - alphas), rtol=2e-3, atol=0)


def test_v_and_epsilon_are_two_views_of_one_step() -> None:
    """ε = √ᾱ v + √(1 - ᾱ) x_t, and both give the same x_0 (Salimans & Ho 2022, appendix D)."""
    latents = torch.randn(32, 4, 8, 8, generator=seeded(0), dtype=torch.float64)
    draw = diffusion().draw(latents, seeded(1), seeded(2))
    noised, velocity = diffusion().corrupt(latents, draw), diffusion("v_prediction").target(latents, draw)
    alphas = alphas_cumprod()[draw.timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(
        alphas.sqrt() * velocity + (1 - alphas).sqrt() * noised, draw.noise.double(), atol=1e-5, rtol=0
    )
    from_velocity = diffusion("v_prediction").to_x0(noised, velocity, draw.timesteps)
    from_noise = diffusion().to_x0(noised, draw.noise, draw.timesteps)
    torch.testing.assert_close(from_velocity, from_noise, atol=1e-4, rtol=0)


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    process = diffusion("v_prediction", zero_terminal_snr=True)
    last = torch.tensor([999])
    latents, noise = torch.randn(1, 4, 8, 8, generator=seeded(0)), torch.randn(1, 4, 8, 8, generator=seeded(1))
    draw = Draw(last, noise)
    assert process.zero_terminal_snr and process.alphas_cumprod[-1] == 0 and process.snr(last) == 0
    assert torch.equal(process.corrupt(latents, draw), noise)
    assert torch.equal(process.target(latents, draw), -latents)
    assert not diffusion("v_prediction").zero_terminal_snr


def test_zero_terminal_snr_is_its_formula() -> None:
    """Lin et al. 2023, algorithm 1: shift √ᾱ so that the last is 0, then scale so that the first is unchanged."""
    roots = alphas_cumprod().sqrt()
    expected = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()
    process = diffusion("v_prediction", zero_terminal_snr=True)
    torch.testing.assert_close(process.alphas_cumprod.double(), expected, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, EulerDiscreteScheduler])
def test_samplers_walk_the_schedule_that_was_trained(scheduler_class: type) -> None:
    scheduler = scheduler_class(
        **SCALED_LINEAR, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    process = DiffusionProcess.from_scheduler(scheduler)
    torch.testing.assert_close(process.alphas_cumprod, scheduler.alphas_cumprod, atol=1e-6, rtol=1e-5)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999


def test_epsilon_at_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ValueError, match="zero terminal SNR needs v-prediction"):
        diffusion("epsilon", zero_terminal_snr=True)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_its_formula(shift: float) -> None:
    process = FlowMatching(shift=shift)
    latents = torch.randn(20_000, 1, 1, 1, generator=seeded(0), dtype=torch.float64)
    draw = process.draw(latents, seeded(1), seeded(2))
    sigmas = draw.timesteps.double() / 1000
    wide = sigmas.view(-1, 1, 1, 1)
    expected = (1 - wide) * latents + wide * draw.noise
    torch.testing.assert_close(process.corrupt(latents, draw), expected, atol=1e-6, rtol=0)
    assert torch.equal(process.target(latents, draw), draw.noise - latents)
    snr = ((1 - sigmas) / sigmas).square()
    torch.testing.assert_close(process.snr(draw.timesteps).double(), snr, rtol=1e-3, atol=1e-9)
    unshifted = sigmas / (shift - (shift - 1) * sigmas)
    normal = torch.logit(unshifted)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_agrees_with_diffusers_scheduler(shift: float) -> None:
    """Noised samples are equal. With the true velocity, one step of the scheduler leads to the latents."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    process = FlowMatching.from_scheduler(scheduler)
    assert process.shift == shift
    latents, noise = torch.randn(3, 4, 8, 8, generator=seeded(0)), torch.randn(3, 4, 8, 8, generator=seeded(1))
    timesteps = scheduler.timesteps[[10, 500, 900]]
    draw = Draw(timesteps, noise)
    torch.testing.assert_close(process.corrupt(latents, draw), scheduler.scale_noise(latents, timesteps, noise))
    scheduler.set_timesteps(1)
    stepped = scheduler.step(process.target(latents, draw), scheduler.timesteps[0], noise).prev_sample
    torch.testing.assert_close(stepped, latents, atol=1e-5, rtol=0)


def test_fractions_name_the_same_place_in_every_schedule() -> None:
    fractions = torch.tensor([0.1, 0.5, 0.9])
    assert diffusion().timesteps_at(fractions, SHAPE).tolist() == [100, 500, 900]
    assert FlowMatching().timesteps_at(fractions, SHAPE).tolist() == pytest.approx([100, 500, 900], rel=1e-5)
    shifted = FlowMatching(shift=3.0).timesteps_at(fractions, SHAPE)
    assert shifted.tolist() == pytest.approx([250, 750, 964.2857], rel=1e-5)


def test_schedulers_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="DDIMScheduler is not a scheduler for flow matching"):
        FlowMatching.from_scheduler(DDIMScheduler())
    with pytest.raises(ValueError, match="depends on the image size"):
        FlowMatching.from_scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    with pytest.raises(ValueError, match="EDMEulerScheduler has no betas"):
        DiffusionProcess.from_scheduler(EDMEulerScheduler())  # Playground 2.5
    with pytest.raises(ValueError, match="'sample'"):
        DiffusionProcess.from_scheduler(DDPMScheduler(prediction_type="sample"))


def test_a_shift_by_tokens_is_that_of_the_pictures_own_size() -> None:
    process = FlowMatching(shift_by_tokens(2, (256, 0.5), (4096, 1.15)))
    for side, mu in ((32, 0.5), (128, 1.15), (64, 0.5 + 0.65 * (1024 - 256) / 3840)):
        wanted = FlowMatching(math.exp(mu))
        shape = torch.Size((2, 4, side, side))
        assert torch.allclose(
            process.timesteps_at(torch.tensor([0.2, 0.7]), shape), wanted.timesteps_at(torch.tensor([0.2, 0.7]), shape)
        )
        draws = [
            one.draw(torch.zeros(shape), torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
            for one in (process, wanted)
        ]
        assert torch.allclose(draws[0].timesteps, draws[1].timesteps)
