"""Tests that checkpoints by steps, epochs and minutes are due at the right steps, and that learning rates are scaled by
the number of images per step."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from job.output_folder import OutputFolder
from job.run import run
from settings.sections.output import OutputSection
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import load_tiny, write_sd15
from trainer.checkpoints.folders import Checkpoints
from trainer.checkpoints.schedule import CheckpointSchedule
from trainer.trainables.trainable import TrainingDiverged


@pytest.mark.parametrize(
    ("settings", "steps_an_epoch", "due"),
    [
        ({}, 4, []),
        ({"checkpointing_steps": 5}, 4, [5, 10]),
        ({"checkpointing_epochs": 1}, 4, [4, 8, 12]),
        ({"checkpointing_epochs": 2}, 4, [8]),
        ({"checkpointing_epochs": 1}, 7 / 3, [3, 5, 7, 10, 12]),  # the step in which the epoch ends
        ({"checkpointing_epochs": 3}, 7 / 3, [7]),
        ({"checkpointing_epochs": 1}, 0.5, list(range(1, 13))),  # a step has two epochs
        ({"checkpointing_minutes": 1}, 4, [3, 6, 9, 12]),  # a step takes 20 s
        ({"checkpointing_minutes": 2.5}, 4, [8]),
        ({"checkpointing_minutes": 0.1}, 4, list(range(1, 13))),
    ],
)
def test_what_is_due(settings: dict[str, float], steps_an_epoch: float, due: list[int]) -> None:
    for resumed_at in (0, 4):
        clock = {"seconds": 20.0 * resumed_at}
        schedule = CheckpointSchedule(OutputSection(**settings), steps_an_epoch, partial(clock.__getitem__, "seconds"))
        found = []
        for step in range(resumed_at + 1, 13):
            clock["seconds"] = 20.0 * step
            if schedule.due(step):
                found.append(step)
        assert found == [step for step in due if step > resumed_at]


def test_all_rates_are_multiplied_by_the_images_of_a_step(tmp_path: Path) -> None:
    family = load_tiny("sd15", tmp_path)
    settings = {"train_text_encoder": True, "lr_warmup_steps": 0, "lr_scheduler": "constant", "max_train_steps": 1}
    rates, notes = [], []
    for scale_lr in (False, True):
        with curve_training(family, curve_config(str(tmp_path), scale_lr=scale_lr, **settings)) as training:
            rates.append(next(training.trainer.steps()).learning_rates)
            notes.append(training.notes)
            assert training.config.learning_rate == 2e-3  # the given rate is kept: a resumed run scales it again
    assert len(rates[0]) == 3 and rates[1] == pytest.approx({name: 4 * rate for name, rate in rates[0].items()})
    assert notes == [[], ["scale_lr: learning rates are multiplied by 4, the images per step: 0.008, for tokens 0.04"]]


@pytest.mark.slow
def test_a_run_with_epoch_checkpoints_and_few_samples(tmp_path: Path) -> None:
    """An epoch has three steps: five of the eight images, in batches of two."""
    config = TrainingConfig(
        base_model=str(write_sd15(tmp_path / "base")), max_train_epochs=3, checkpointing_epochs=1, train_batch_size=2,
        max_train_samples=5, multires_noise_iterations=3, num_validation_images=0, evaluate="false", captioner="none",
        learning_rate=1e-2,
    )  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    list(run(config, [EXAMPLE], output))
    assert Checkpoints(output.checkpoints).due_steps() == [3, 6, 9]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Weights that are not finite raise TrainingDiverged, and a full disk SafetensorError."""

    def write(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise TrainingDiverged("not finite")

    training = SimpleNamespace(trainer=SimpleNamespace(step=3), write=write)
    with pytest.raises(TrainingDiverged):
        Checkpoints(tmp_path).write(training)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
