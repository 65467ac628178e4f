"""Tests of weights of timesteps that are learned from the errors."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from families.noise.cosine_process import CosineProcess
from families.noise.diffusion_process import DiffusionProcess
from families.noise.edm_process import EDMProcess
from families.noise.flow_matching import FlowMatching
from families.noise.noise_process import Draw, NoiseProcess
from settings.record import ConfigError
from settings.training import build_config
from tests.families.golden_curves import curve_config, resumed, undisturbed
from tests.fast_part import slow_but
from tests.tiny_models import load_tiny
from tests.trainer.losses.test_masked_loss import context
from trainer.losses.adaptive import DECAY, AdaptiveMeanSquaredError
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.term import StepContext

HIGH, LOW = 900.0, 100.0
"""Two timesteps of different ranges."""


def step_with(errors: dict[float, float] | list[tuple[float, float]]) -> StepContext:
    """Returns a step of images at these timesteps. The squared error of an image is the same at all its latents."""
    pairs = list(errors.items()) if isinstance(errors, dict) else errors
    noise = torch.zeros(len(pairs), 4, 5, 6)
    roots = torch.tensor([error**0.5 for _, error in pairs]).view(-1, 1, 1, 1)
    return replace(
        context(), latents=noise, noised=noise, prediction=noise + roots, noise_process=CosineProcess(),
        draw=Draw(torch.tensor([time for time, _ in pairs]), noise), weights=torch.ones(len(pairs)),
    )  # fmt: skip


def value(term: AdaptiveMeanSquaredError, step: StepContext) -> float:
    return float(term(step))


def test_all_noise_counts_alike_once_its_errors_are_known() -> None:
    term, step = AdaptiveMeanSquaredError(), step_with({HIGH: 0.01, LOW: 4.0})
    assert value(term, step) == pytest.approx(float(MeanSquaredError()(step)))  # no error is known yet
    term.end_step()
    assert value(term, step) == pytest.approx(1.0)
    assert value(term, step_with({HIGH: 0.02})) == pytest.approx(2.0)
    assert value(term, step_with({500.0: 3.0})) == pytest.approx(3.0)  # a range without errors yet


def test_means_change_between_steps_alone_and_decay_by_the_image() -> None:
    term = AdaptiveMeanSquaredError()
    value(term, step_with({LOW: 1.0}))
    assert value(term, step_with({LOW: 3.0})) == pytest.approx(3.0)  # a second micro-batch of the step
    term.end_step()
    assert value(term, step_with({LOW: 1.0})) == pytest.approx(1 / 2.0)
    term.forget_step()
    value(term, step_with([(LOW, 5.0)] * 3))
    term.end_step()
    kept = DECAY**3
    before = 1 - DECAY**2  # the weight of the first two
    expected = (kept * before * 2.0 + (1 - kept) * 5.0) / (kept * before + 1 - kept)
    assert value(term, step_with({LOW: 1.0})) == pytest.approx(1 / expected, rel=1e-5)


def test_a_step_that_starts_over_counts_once() -> None:
    once, twice = AdaptiveMeanSquaredError(), AdaptiveMeanSquaredError()
    value(twice, step_with({LOW: 9.0}))
    twice.forget_step()
    for term in (once, twice):
        value(term, step_with({LOW: 2.0, HIGH: 0.5}))
        term.end_step()
    assert torch.equal(once.expected, twice.expected)


ALPHAS = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.002])


@pytest.mark.parametrize(
    ("process", "timesteps", "log_snr"),
    [
        (DiffusionProcess(ALPHAS, "epsilon"), torch.arange(5), (ALPHAS / (1 - ALPHAS)).log()),
        (DiffusionProcess(ALPHAS, "v_prediction"), torch.arange(5), (ALPHAS / (1 - ALPHAS)).log()),
        (
            FlowMatching(),
            torch.tensor([50.0, 300.0, 600.0, 990.0]),
            2 * (1 / torch.tensor([0.05, 0.3, 0.6, 0.99]) - 1).log(),
        ),
        (
            EDMProcess(),
            torch.tensor([0.05, 0.5, 3.0, 40.0]).log() / 4,
            2 * (0.5 / torch.tensor([0.05, 0.5, 3.0, 40.0])).log(),
        ),
    ],
    ids=["epsilon", "v", "flow", "edm"],
)
def test_it_is_its_formula_for_every_process(process: NoiseProcess, timesteps: Tensor, log_snr: Tensor) -> None:
    """Compared with a plain loop: running means of the errors in 32 ranges of log SNR; the inner ones have a width of
    20 / 30."""
    generator, term = torch.Generator().manual_seed(3), AdaptiveMeanSquaredError()
    sums: dict[int, tuple[float, float]] = {}
    for _ in range(4):
        shape = (len(timesteps), 4, 5, 6)
        latents, noise, off = (torch.randn(shape, generator=generator) for _ in range(3))
        draw = Draw(timesteps, noise)
        step = replace(
            context(), latents=latents, noised=process.corrupt(latents, draw), noise_process=process, draw=draw,
            prediction=process.target(latents, draw) + off, weights=torch.ones(len(timesteps)), masks=None,
        )  # fmt: skip
        errors = off.square().mean((1, 2, 3)).tolist()
        ranges = [min(31, max(0, math.ceil((value + 10) / (20 / 30)))) for value in log_snr.tolist()]
        means = [sums[each][0] / sums[each][1] if each in sums else 1.0 for each in ranges]
        expected = sum(error / mean for error, mean in zip(errors, means, strict=True)) / len(errors)
        assert value(term, step) == pytest.approx(expected, rel=1e-4)
        term.end_step()
        for each in set(ranges):
            own = [error for error, where in zip(errors, ranges, strict=True) if where == each]
            total, count = sums.get(each, (0.0, 0.0))
            kept = DECAY ** len(own)
            sums[each] = kept * total + (1 - kept) * sum(own) / len(own), kept * count + 1 - kept
    assert len(sums) > 2


@pytest.mark.parametrize("kind", slow_but(["sd3"], ["sdxl", "sdxl-v", "sd3", "cascade"]))
def test_a_resumed_training_has_the_same_means(kind: str, tmp_path: Path) -> None:
    family = load_tiny(kind, tmp_path / "base")
    config = curve_config(str(tmp_path / "base"), max_train_steps=3, loss_weighting="adaptive")
    whole = undisturbed(family, config, tmp_path)
    with resumed(family, config, whole) as training:
        assert [step.losses for step in training.trainer.steps()] == whole.losses
        (term,) = training.trainer.losses
        assert isinstance(term, AdaptiveMeanSquaredError)
        means: Tensor = term.expected
        assert (means != 1).sum() > 1


@pytest.mark.parametrize("loss_type", ["huber", "dco"])
def test_other_losses_have_no_such_weights(loss_type: str) -> None:
    with pytest.raises(ConfigError, match="loss_weighting: adaptive is for loss_type mse"):
        build_config({"base_model": "tiny", "loss_weighting": "adaptive", "loss_type": loss_type})
