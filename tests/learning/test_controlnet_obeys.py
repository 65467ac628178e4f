"""Tests that a ControlNet trained on the embedded base model follows edges that it was not trained on."""

from pathlib import Path

import pytest
from PIL import Image

from tools.controlnet_demo import TRAINED, obedience, train, unseen

TIMES_CHANCE = 3


@pytest.mark.slow
def test_samples_follow_the_edges(tmp_path: Path) -> None:
    output = train(tmp_path)
    trained = set()
    for path in (output.dataset / "conditioning").glob("*.png"):
        with Image.open(path) as picture:
            trained.add(picture.convert("RGB").tobytes())
    assert len(trained) > TRAINED / 2
    assert not trained & {condition.tobytes() for condition in unseen()[1]}
    found = obedience(output)
    print(f"edges: {found.controlled:.3f}, by chance {found.chance:.3f}")
    assert found.chance > 0
    assert found.controlled >= TIMES_CHANCE * found.chance
