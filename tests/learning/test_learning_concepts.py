"""Tests that two concepts are learned in one run, and that samples of one do not resemble the other."""

import zipfile
from pathlib import Path

import pytest

from tests.conftest import EXAMPLE
from tests.taught import WITHOUT_PRIOR, look, train
from tools.fish import write_fish

LEARNED, GAIN, MARGIN = 0.9, 0.45, 0.3
SETTINGS = {**WITHOUT_PRIOR, "learning_rate": 6e-3, "max_train_steps": 250}
"""Each concept has half of every batch: with the demo's learning rate, both would be learned slowly."""
CONCEPTS = [
    {"trigger_word": "TOK", "class_word": "figure", "folder": "robots"},
    {"trigger_word": "FSH", "class_word": "figure", "folder": "fish"},
]


@pytest.mark.slow
def test_two_concepts_in_one_run_are_both_learned_and_stay_apart(tmp_path: Path) -> None:
    photos = {"TOK": tmp_path / "data" / "robots", "FSH": tmp_path / "data" / "fish"}
    write_fish(photos["FSH"], "FSH")
    with zipfile.ZipFile(EXAMPLE) as archive:
        archive.extractall(photos["TOK"])
    artifact = train(tmp_path / "data", tmp_path / "out", {"concepts": CONCEPTS, **SETTINGS})
    taught = look(artifact, photos, {trigger: [(f"a photo of {trigger}", 8)] for trigger in photos})
    for trigger, other in (("TOK", "FSH"), ("FSH", "TOK")):
        own, bled = taught[trigger].likeness(), taught[trigger].likeness(taught[other].photos)
        print(
            f"{trigger}: {own:.3f} of {taught[trigger].itself:.3f}, gain {taught[trigger].gain:.3f}, other {bled:.3f}"
        )
        assert own >= LEARNED * taught[trigger].itself
        assert taught[trigger].gain >= GAIN
        assert own >= bled + MARGIN
