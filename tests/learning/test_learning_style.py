"""Teaching a style: shapes that the base knows, drawn as it never saw them."""

from pathlib import Path

import pytest

from tests.taught import WITHOUT_PRIOR, look, train
from tools.mini_base.drawing.outlines import SHAPES
from tools.poster_style import write_posters

LEARNED, GAIN = 0.9, 0.35  # the base draws shapes on one ground too: what can be gained is less than with things


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
