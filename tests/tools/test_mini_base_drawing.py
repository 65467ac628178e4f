"""Tests of the training data of the next embedded base: colours and their words, fills, shapes, scenes, and images of
every kind."""

import random

import numpy as np
import pytest
import torch

from tools.mini_base.attributes import UNKNOWN, VALUES, AttributeHeads, labels
from tools.mini_base.drawing import photographs
from tools.mini_base.drawing.backgrounds import SCENERY, TONES
from tools.mini_base.drawing.colours import COLOURS, colour_named, distance, distinct_colour, name_of
from tools.mini_base.drawing.fills import PATTERNS, Fill, paint
from tools.mini_base.drawing.outlines import SHAPES, Place, Sheet, Stroke
from tools.mini_base.drawing.parts import PARTS
from tools.mini_base.drawing.wide import KINDS, wide_picture
from tools.mini_base.evaluate_vae import psnr
from tools.mini_base.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    Scene,
    Thing,
    caption,
    describe,
    draw,
    evaluation_scene,
    full_caption,
    held_out,
    sample_scene,
    training_scene,
    value_of,
    variations,
)
from tools.mini_base.training.muon import Muon, hidden_matrices, orthogonalized
from tools.mini_base.training.train_image_tower import BATCH_SIZE, contrastive_scenes, drawable

RED_STAR = Thing("star", "red", "striped", "light blue", "large", "on the left", ("eyes", "legs"), outlined=True)
SCENE = Scene((RED_STAR,), "dark green")


def test_a_colour_is_called_by_the_nearest_word() -> None:
    rng = random.Random(0)
    assert name_of((150, 230, 160)) == "light green"
    for word, typical in COLOURS.items():
        assert name_of(typical) == word
        assert all(name_of(colour_named(word, rng)) == word for _ in range(20))


def test_words_mean_many_colours() -> None:
    rng = random.Random(0)
    assert len({colour_named("green", rng) for _ in range(40)}) > 20


def test_a_distinct_colour_differs_from_the_others() -> None:
    others = [COLOURS["red"], COLOURS["blue"], COLOURS["white"]]
    colour = distinct_colour(others, random.Random(3))
    assert all(distance(colour, other) >= 30 for other in others)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_shows_both_its_colours(pattern: str) -> None:
    picture = np.asarray(paint(Fill(pattern, (255, 0, 0), (0, 0, 255), angle=0.4, seed=1), 96))
    assert picture.shape == (96, 96, 3)
    assert (picture[..., 0] > 170).any() and (picture[..., 2] > 170).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_place_and_no_more(shape: str) -> None:
    sheet = Sheet(64, Fill("plain", (255, 255, 255)))
    sheet.put(SHAPES[shape], Place(0.5, 0.5, 0.3), Fill("plain", (0, 0, 0)), Stroke((255, 0, 0)))
    dark = np.asarray(sheet.finished().convert("L")) < 128
    assert dark[10:54, 10:54].sum() == dark.sum() > 300


def test_captions_say_what_is_drawn() -> None:
    assert full_caption(SCENE) == (
        "a photo of a large outlined striped red and light blue star with eyes and legs on the left"
        " on a dark green background"
    )
    assert full_caption(Scene((Thing("ring", "orange"),), "at the beach")) == (
        "a photo of an orange ring in the center at the beach"
    )
    patterned = Scene((Thing("moon", "white"),), "red", "dotted", "black")
    assert full_caption(patterned).endswith(" on a dotted red and black background")


def test_the_same_seed_draws_the_same_picture() -> None:
    first, second = (draw(SCENE, random.Random(5)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.size == (64, 64)
    red, green, blue = first.getpixel((62, 2))  # type: ignore[misc]
    assert green > max(red, blue)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_seen(part: str) -> None:
    with_part = draw(Scene((Thing("circle", "green", parts=(part,)),), "white"), random.Random(1))
    without = draw(Scene((Thing("circle", "green"),), "white"), random.Random(1))
    assert (np.asarray(with_part) != np.asarray(without)).any(axis=-1).sum() > 20


def test_a_thing_is_never_of_the_colours_of_its_place() -> None:
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng)
        taken = {scene.background, scene.second, *TONES.get(scene.background, ())}
        assert all(thing.colour not in taken for thing in scene.things)


def test_training_and_evaluation_share_no_combination() -> None:
    rng = random.Random(0)
    assert not any(held_out(training_scene(rng)) for _ in range(200))
    assert all(held_out(evaluation_scene(rng)) for _ in range(20))


def test_variations_differ_in_one_attribute_only() -> None:
    for attribute, values in ATTRIBUTES.items():
        varied = variations(SCENE, attribute)
        assert [value_of(scene, attribute) for scene in varied] == list(values)
        assert SCENE in varied
        for other in set(ATTRIBUTES) - {attribute}:
            assert {value_of(scene, other) for scene in varied} == {value_of(SCENE, other)}


def test_captions_vary_and_are_short_enough_to_be_read_to_their_end() -> None:
    rng = random.Random(0)
    assert len({caption(SCENE, rng) for _ in range(60)}) > 10
    assert max(len(full_caption(sample_scene(rng)).split()) for _ in range(300)) <= 36
    assert describe(Thing("heart", "orange")) == "an orange heart"


def test_labels_know_what_a_caption_leaves_unsaid() -> None:
    two = Scene((Thing("star", "red"), Thing("moon", "white")), "blue")
    table = labels([SCENE, SCENE, two], ["a large outlined striped red thing on the left", full_caption(SCENE), "two"])
    assert table["background"].tolist() == [UNKNOWN, BACKGROUNDS.index("dark green"), UNKNOWN]
    assert table["shape"].tolist() == [UNKNOWN, tuple(SHAPES).index("star"), UNKNOWN]
    assert table["eyes"].tolist() == [1, 1, UNKNOWN] and table["wings"].tolist() == [0, 0, UNKNOWN]
    heads = AttributeHeads(8)
    vectors = torch.nn.functional.normalize(torch.ones(3, 8), dim=-1)
    heads.loss(vectors, table).backward()
    assert set(heads.accuracy(vectors, table)) == set(VALUES)


def test_a_batch_of_the_image_tower_has_siblings_that_can_be_seen() -> None:
    scenes = contrastive_scenes(random.Random(0))
    assert len(scenes) == len(set(scenes)) == BATCH_SIZE
    assert all(drawable(scene) for scene in scenes[BATCH_SIZE // 2 :])
    assert not drawable(Scene((Thing("star", "light blue"),), "at the beach"))


def test_wide_pictures_come_from_their_seed() -> None:
    for kind in KINDS.values():
        assert kind(64, random.Random(4)).tobytes() == kind(64, random.Random(4)).tobytes()
    assert wide_picture(64, random.Random(4)).size == (64, 64)


def test_photographs_for_evaluation_are_kept_from_training() -> None:
    assert not set(photographs.TRAINING) & set(photographs.EVALUATION)
    square = photographs.random_square(photographs.EVALUATION, 64, random.Random(0))
    assert square.size == (64, 64) and np.asarray(square).std() > 1


def test_every_place_is_drawn_in_colours_that_have_words() -> None:
    assert SCENERY.keys() == TONES.keys()
    assert all(word in COLOURS for words in TONES.values() for word in words)


def test_psnr_is_that_of_pictures_of_255() -> None:
    pixels = torch.zeros(2, 3, 8, 8)
    values = psnr(pixels + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1), pixels)
    assert values.tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_muon_makes_updates_orthogonal_and_learns() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(24, 60)))
    assert values.min() > 0.5 and values.max() < 1.4
    module = torch.nn.Conv2d(16, 16, 3)
    matrices, others = hidden_matrices(module)
    assert [len(matrices), len(others)] == [1, 1]
    optimizer = Muon(matrices, others, 1e-2, 1e-2)
    pictures = torch.randn(4, 16, 8, 8)
    losses = []
    for _ in range(20):
        loss = module(pictures).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
