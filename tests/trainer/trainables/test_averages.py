"""Tests of averaged weights: their formulas, and that the weights of the last step are restored bit for bit."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.run import run
from job.steps.training import train
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from tests.job.test_resume import CONFIG as RESUME_CONFIG
from tests.job.test_resume import Prepared, prepared, trainings  # noqa: F401 (a fixture)
from tests.samples import samples_of
from trainer.trainables.averages import Averaging, ExponentialAverages, ScheduleFreeAverages
from trainer.training import Training


def test_the_exponential_average_by_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(3))
    averages = ExponentialAverages([parameter], Averaging(0.5))
    expected = torch.zeros(3, dtype=torch.float64)
    for step in range(12):
        with torch.no_grad():
            parameter.add_(torch.randn(3, generator=generator))
        averages.follow()
        beta = 0.0 if step == 0 else min(0.5, (1 + step) / (10 + step))
        expected = beta * expected + (1 - beta) * parameter.detach().double()
    last = parameter.detach().clone()
    averages.put_in()
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
    averages.take_out()
    assert torch.equal(parameter.detach(), last)


def test_an_average_with_a_start_and_an_interval() -> None:
    """The average is a copy of the weights at steps 2 and 4, and is updated at steps 6, 8 …; a state that is saved in
    between continues."""
    parameter = nn.Parameter(torch.zeros(3))
    averaging = Averaging(0.15, start=4, interval=2)
    averages, seen = ExponentialAverages([parameter], averaging), list[float]()
    for step in range(1, 11):
        parameter.data.fill_(float(step))
        averages.follow()
        if step == 7:
            state = copy.deepcopy(averages.state_dict())
            averages = ExponentialAverages([parameter], averaging)
            averages.load_state_dict(state)
        averages.put_in()
        seen.append(round(float(parameter.detach()[0]), 6))
        averages.take_out()
    expected = [0.0, 2.0, 2.0, 4.0, 4.0]
    for step in (6, 8, 10):
        # the first update after the copies takes the weights, as diffusers' average does
        beta = 0.0 if step == 6 else 0.15
        expected += [beta * expected[-1] + (1 - beta) * step] * 2
    assert seen == pytest.approx(expected[:10])


def test_schedule_free_weights_come_back_to_the_bit() -> None:
    parameter = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(0)))

    class Rounding(torch.optim.SGD):
        """A fake schedule-free optimizer: swapping parameters rounds them."""

        def train(self) -> None:
            parameter.data.mul_(3.0)

        def eval(self) -> None:
            parameter.data.div_(3.0)

    averages = ScheduleFreeAverages([parameter], Rounding([parameter], lr=1.0))
    before = parameter.detach().clone()
    averages.put_in()
    assert not torch.equal(parameter.detach(), before)
    averages.take_out()
    assert torch.equal(parameter.detach(), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"ema_decay": 0.9}, {"optimizer": "prodigy", "token_optimizer": "adafactor", "save_precision": "fp32"}]
)
def test_a_run_verifies_what_it_averaged(settings: dict[str, object], base: ModelFamily, tmp_path: Path) -> None:
    config = TrainingConfig(
        base_model="mini-sdxl", class_word="figure", max_train_steps=6, rank=4, train_batch_size=2,
        num_validation_images=1, num_inference_steps=2, **settings,
    )  # fmt: skip
    assert list(run(config, [EXAMPLE], OutputFolder.create(tmp_path / "out")))[-1].fraction == 1.0


def test_samples_during_training_are_drawn_with_the_averages(
    base: ModelFamily, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("job.steps.training._write_samples", lambda training, *_: seen.append(first(training)))

    def first(training: Training) -> torch.Tensor:
        return training.trainer.trainables[0].parameters[0].detach().clone()

    config = RESUME_CONFIG.model_copy(update={"ema_decay": 0.9, "sample_steps": 3, "max_train_steps": 3})
    for training in trainings(base, config, prepared):
        list(train(training, OutputFolder.create(tmp_path / "out"), samples_of(training)))
        last = first(training)
        with training.averaged():
            assert torch.equal(seen[0], first(training)) and not torch.equal(seen[0], last)
