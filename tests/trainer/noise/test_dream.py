"""Tests of DREAM against the paper's form for ε, and of what it must not change."""

import pytest
import torch
from torch import Tensor

from families.family import ModelFamily
from families.noise.diffusion_process import DiffusionProcess
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw, NoiseProcess
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, trainings  # noqa: F401 (a fixture)
from trainer.noise.dream import Dream, noise_scale

ALPHAS = torch.linspace(0.99, 0.01, 1000)
PROCESSES: list[NoiseProcess] = [
    DiffusionProcess(ALPHAS, "epsilon"), DiffusionProcess(ALPHAS, "v_prediction"), FlowMatching()
]  # fmt: skip
TIMESTEPS = torch.tensor([10, 400, 900])


def seeded(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


LATENTS, NOISE, ERROR = seeded(0), seeded(1), seeded(2)


def perfect(process: NoiseProcess, off: float = 0.0) -> Tensor:
    """Returns the exact prediction, plus `off` times an error."""
    return process.target(LATENTS, Draw(TIMESTEPS, NOISE)) + off * ERROR


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_for_epsilon_input_and_target_move_as_in_the_paper(power: float) -> None:
    """Algorithm 1: the input is x_t + √(1 - ᾱ)·δ and the target ε + δ, with δ = √(1 - ᾱ)^p · (ε - ε̂)."""
    process = PROCESSES[0]
    draw = Draw(TIMESTEPS, NOISE)
    prediction = perfect(process, 0.3)
    new = Dream(power)(process, LATENTS, draw, lambda noised, timesteps: prediction)
    scale = (1 - ALPHAS[TIMESTEPS]).sqrt().view(-1, 1, 1, 1)
    delta = scale**power * (NOISE - prediction)
    torch.testing.assert_close(process.corrupt(LATENTS, new), process.corrupt(LATENTS, draw) + scale * delta)
    torch.testing.assert_close(process.target(LATENTS, new), NOISE + delta)
    assert torch.equal(new.timesteps, TIMESTEPS)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.prediction_type)
def test_a_model_without_error_is_trained_as_before(process: NoiseProcess) -> None:
    new = Dream(1.0)(process, LATENTS, Draw(TIMESTEPS, NOISE), lambda *_: perfect(process))
    torch.testing.assert_close(new.noise, NOISE, rtol=0, atol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.prediction_type)
def test_the_same_picture_in_mind_is_the_same_noise(process: NoiseProcess) -> None:
    """For any prediction, x_t consists of its x̂_0 and ε̂."""
    noised = process.corrupt(LATENTS, Draw(TIMESTEPS, NOISE))
    prediction = perfect(process, 0.2)
    clean, noise = (read(noised, prediction, TIMESTEPS) for read in (process.to_x0, process.to_noise))
    torch.testing.assert_close(process.corrupt(clean, Draw(TIMESTEPS, noise)), noised, rtol=1e-4, atol=1e-4)
    again = Dream(1.0)(process, LATENTS, Draw(TIMESTEPS, NOISE), lambda *_: prediction)
    strength = noise_scale(process, TIMESTEPS).view(-1, 1, 1, 1)
    torch.testing.assert_close(again.noise, NOISE + strength * (NOISE - noise), rtol=1e-4, atol=1e-4)


def test_a_large_power_is_a_plain_training_and_the_pass_has_no_gradients() -> None:
    def predict(noised: Tensor, timesteps: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return perfect(PROCESSES[0], 1.0)

    draw = Draw(TIMESTEPS[:1], NOISE[:1])
    new = Dream(20.0)(PROCESSES[0], LATENTS[:1], draw, lambda *given: predict(*given)[:1])
    torch.testing.assert_close(new.noise, NOISE[:1], rtol=0, atol=1e-6)
    flow = noise_scale(PROCESSES[2], torch.tensor([250.0]))
    assert flow.item() == pytest.approx(0.25)


def test_both_passes_have_the_same_random_condition(base: ModelFamily, prepared: Prepared) -> None:  # noqa: F811
    """Such as the dropout of a ControlNet's images: the error is that of the pass that is trained."""
    drawn: list[float] = []
    for training in trainings(base, RESUME_CONFIG.model_copy(update={"dream": 1.0}), prepared):

        def condition(*_: object, generator: torch.Generator = training.trainer.generators["condition"]) -> None:
            drawn.append(float(torch.rand((), generator=generator)))

        training.trainer.condition = condition
        steps = training.trainer.steps()
        next(steps), next(steps)
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
