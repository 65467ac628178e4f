"""Tests that a concept is learned on a flow-matching base model with a frozen text encoder: with a plain word as the
trigger, the layers of a transformer, and the defaults of the family."""

from pathlib import Path

import pytest

from job.output_folder import OutputFolder
from job.run import run
from settings.training import build_config
from tests.conftest import EXAMPLE
from tools.before_after import compare, measure

LEARNED, GAIN, KEPT = 0.85, 0.4, 0.85
SETTINGS = {
    "base_model": "mini-flow", "trigger_word": "TOK", "class_word": "figure", "max_train_steps": 300,
    "train_batch_size": 4, "num_validation_images": 0,
}  # fmt: skip
GUIDANCE_SCALE = 1.0
"""Z-Image's guidance starts at 0: a scale of 1 doubles the difference that the prompt makes."""


@pytest.mark.slow
def test_a_flow_base_learns_the_concept_and_keeps_the_rest(tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "out")
    for _ in run(build_config(SETTINGS), [EXAMPLE], output):
        pass
    figures = measure(compare(output.weights, output.dataset / "images", 0, GUIDANCE_SCALE))
    print(figures)
    before, after = (figures[f"samples to training images, {when}"] for when in ("before", "after"))
    assert after >= LEARNED * figures["training images to each other"]
    assert after >= before + GAIN
    assert figures["unrelated prompts, after to before"] >= KEPT
