"""Tests that a resumed training equals an uninterrupted one bit for bit in every family, including drawn timesteps."""

from pathlib import Path

import pytest
import torch

from tests.families.golden_curves import curve_config, resumed, undisturbed
from tests.families.test_golden_curves import ONE_FAST
from tests.tiny_models import load_tiny

STEPS = 3
KILL = 1


@pytest.mark.parametrize("kind", ONE_FAST)
def test_every_family_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    family = load_tiny(kind, tmp_path / "base")
    config = curve_config(str(tmp_path / "base"), max_train_steps=STEPS)
    whole = undisturbed(family, config, tmp_path, KILL)
    with resumed(family, config, whole) as training:
        assert [step.losses for step in training.trainer.steps()] == whole.losses
        assert all(torch.equal(*pair) for pair in zip(training.tokens.rows(), whole.rows, strict=True))
