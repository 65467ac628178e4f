"""Identities of the metrics, and the embedded evaluator on pictures that tests draw."""

import random
from itertools import combinations

import pytest
import torch
from PIL import Image

from tests.conftest import EXAMPLE
from tools.make_example import robot
from tools.mini_base.world import Scene, Thing, draw
from trainer.evaluation.encoders import ClipEncoder
from trainer.evaluation.similarity import mean_paired_similarity, mean_self_similarity, mean_similarity


@pytest.fixture(scope="module")
def evaluator() -> ClipEncoder:
    return ClipEncoder()


def drawings(shape: str, colour: str, background: str) -> list[Image.Image]:
    return [draw(Scene((Thing(shape, colour),), background), random.Random(seed)) for seed in range(4)]


def test_identities() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    shuffled = vectors[torch.tensor([3, 1, 4, 0, 2])]
    assert mean_paired_similarity(vectors, vectors) == pytest.approx(1)
    assert mean_self_similarity(vectors[:1].repeat(3, 1)) == pytest.approx(1)
    assert mean_self_similarity(shuffled) == pytest.approx(mean_self_similarity(vectors))
    assert mean_similarity(vectors, shuffled) == pytest.approx(mean_similarity(shuffled, vectors))
    pairs = [float(vectors[i] @ vectors[j]) for i, j in combinations(range(5), 2)]
    assert mean_self_similarity(vectors) == pytest.approx(sum(pairs) / len(pairs))


def test_a_picture_is_nearest_to_its_like(evaluator: ClipEncoder) -> None:
    stars, circles = (evaluator.embed(drawings(shape, "red", "blue")) for shape in ("star", "circle"))
    assert mean_self_similarity(stars) > mean_similarity(stars, circles) + 0.05
    green = evaluator.embed(drawings("star", "red", "green"))
    assert mean_self_similarity(stars) > mean_similarity(stars, green) + 0.05


def test_the_example_is_one_concept_and_no_part_of_the_world(evaluator: ClipEncoder) -> None:
    rng = random.Random(1)
    robots = evaluator.embed([robot(64, background, rng) for background in ("blue", "white", "red", "green")])
    world = evaluator.embed([*drawings("square", "green", "blue"), *drawings("cross", "white", "red")])
    assert mean_self_similarity(robots) > 0.4
    assert mean_similarity(robots, world) < mean_self_similarity(robots) - 0.3
    assert EXAMPLE.exists()


def test_order_and_company_do_not_matter(evaluator: ClipEncoder) -> None:
    pictures = drawings("heart", "yellow", "black")
    together = evaluator.embed(pictures)
    alone = torch.cat([evaluator.embed([picture]) for picture in reversed(pictures)]).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
