"""The world that the embedded base was trained on."""

import random

from tools.make_example import example
from tools.mini_base.world import (
    ATTRIBUTES,
    Scene,
    Thing,
    caption,
    draw,
    evaluation_scene,
    full_caption,
    held_out,
    training_scene,
    value_of,
    variations,
)

SCENE = Scene((Thing("star", "red", "striped", "large", "on the left"),), "blue")


def test_captions_say_what_is_drawn() -> None:
    assert full_caption(SCENE) == "a photo of a large striped red star on the left on a blue background"
    assert full_caption(Scene((Thing("ring", "orange"),), "red")) == (
        "a photo of an orange ring in the center on a red background"
    )


def test_the_same_seed_draws_the_same_picture() -> None:
    first, second = (draw(SCENE, random.Random(5)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.size == (64, 64)
    red, _, blue = first.getpixel((2, 2))  # type: ignore[misc]
    assert blue > 150 > red


def test_training_and_evaluation_share_no_combination() -> None:
    rng = random.Random(0)
    assert not any(held_out(training_scene(rng)) for _ in range(300))
    assert all(held_out(evaluation_scene(rng)) for _ in range(100))


def test_variations_differ_in_one_attribute_only() -> None:
    for attribute, values in ATTRIBUTES.items():
        varied = variations(SCENE, attribute)
        assert [value_of(scene, attribute) for scene in varied] == list(values)
        assert SCENE in varied
        for other in set(ATTRIBUTES) - {attribute}:
            assert {value_of(scene, other) for scene in varied} == {value_of(SCENE, other)}


def test_captions_vary() -> None:
    rng = random.Random(0)
    captions = {caption(SCENE, rng) for _ in range(60)}
    assert len(captions) > 10
    assert any("background" not in text for text in captions)


def test_the_example_is_the_one_that_is_shipped() -> None:
    import zipfile

    from tests.conftest import EXAMPLE

    with zipfile.ZipFile(EXAMPLE) as archive:
        shipped = {name: archive.read(name) for name in archive.namelist()}
    made = dict(example())
    assert shipped.keys() == made.keys()
    assert all(shipped[name] == made[name] for name in made if name.endswith(".txt"))
