"""A killed and resumed run equals an uninterrupted one bit for bit, in every family, including its timestep draws."""

from pathlib import Path

import pytest
import torch

from tests.families.golden_curves import curve_config, curve_training
from tests.families.test_golden_curves import ONE_FAST
from tests.tiny_models import load_tiny
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore

STEPS = 3
KILL = 1


@pytest.mark.parametrize("kind", ONE_FAST)
def test_every_family_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    family = load_tiny(kind, tmp_path / "base")
    config = curve_config(str(tmp_path / "base"), max_train_steps=STEPS)
    checkpoints = Checkpoints(tmp_path)
    with curve_training(family, config) as training:
        expected = []
        for step in training.trainer.steps():
            expected.append(step)
            if step.number == KILL:
                checkpoints.write(training)
        rows = training.tokens.rows()
    with curve_training(family, config) as training:
        restore(training, read_checkpoint(checkpoints.path(KILL)))
        resumed = list(training.trainer.steps())
        assert [step.losses for step in resumed] == [step.losses for step in expected[KILL:]]
        assert all(torch.equal(*pair) for pair in zip(training.tokens.rows(), rows, strict=True))
