"""Tests that samples show a concept after training on eight images of it, which the base model was not trained on, and
that samples of unrelated prompts stay similar."""

from pathlib import Path

import pytest

from job.output_folder import OutputFolder
from job.run import run
from settings.record import read_settings_file
from settings.training import build_config
from tests.conftest import EXAMPLE, PROJECT
from tools.before_after import compare, measure

# The limits; docs/results.md has the demo's values.
LEARNED, GAIN, KEPT = 0.9, 0.5, 0.85
STEPS = 280
"""Fewer steps than the demo's."""


@pytest.mark.slow
def test_the_concept_is_learned_and_the_rest_is_kept(tmp_path: Path) -> None:
    config = build_config({**read_settings_file(PROJECT / "configs" / "demo.yaml"), "seed": 0,
                           "max_train_steps": STEPS, "num_validation_images": 0})  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    for _ in run(config, [EXAMPLE], output):
        pass
    figures = measure(compare(output.weights, output.dataset / "images", 0))
    print(figures)
    itself = figures["training images to each other"]
    before, after = (figures[f"samples to training images, {when}"] for when in ("before", "after"))
    assert after >= LEARNED * itself
    assert after >= before + GAIN
    assert figures["unrelated prompts, after to before"] >= KEPT
