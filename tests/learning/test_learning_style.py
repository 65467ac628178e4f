"""Tests that a style is learned: shapes that the base model knows, in a style that it was not trained on."""

from pathlib import Path

import pytest

from tests.taught import WITHOUT_PRIOR, look, train
from tools.mini_base.drawing.outlines import SHAPES
from tools.poster_style import write_posters

LEARNED, GAIN = 0.9, 0.35  # the base model's shapes have plain backgrounds too: less can be gained than with objects


@pytest.mark.slow
def test_a_style_is_learned(tmp_path: Path) -> None:
    write_posters(tmp_path / "data", "TOK")
    artifact = train(
        tmp_path / "data", tmp_path / "out", {"concept_mode": "style", **WITHOUT_PRIOR, "max_train_steps": 200}
    )
    prompts = [(f"a photo of a {shape} in the style of TOK", 1) for shape in SHAPES]
    taught = look(artifact, {"TOK": tmp_path / "data"}, {"TOK": prompts})["TOK"]
    print(f"style: {taught.likeness():.3f} of {taught.itself:.3f}, gain {taught.gain:.3f}")
    assert taught.likeness() >= LEARNED * taught.itself
    assert taught.gain >= GAIN
