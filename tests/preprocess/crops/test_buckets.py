"""Tests of the buckets: their number and sizes, the share that is cropped off, and the limit of enlargement."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.crops.buckets import BucketRules, assign_buckets, candidates, crop_loss, enlargement
from preprocess.crops.crop import MAX_ENLARGEMENT, Size
from settings.record import ConfigError
from settings.training import build_config

sides = st.integers(64, 5000)


def photographs(count: int, seed: int = 0) -> list[Size]:
    """Return `count` sizes of photographs: common aspect ratios, varied by up to 10%, between 1:2 and 2:1."""
    rng = random.Random(seed)
    sizes = []
    for _ in range(count):
        width, height = rng.choice([(3, 2), (4, 3), (16, 9), (1, 1), (5, 4)])
        aspect = width / height * rng.uniform(0.9, 1.1)
        aspect = min(2.0, 1 / aspect if rng.random() < 0.4 else aspect)
        side = rng.uniform(1000, 4000)
        sizes.append((int(side * math.sqrt(aspect)), int(side / math.sqrt(aspect))))
    return sizes


def test_no_side_is_longer_than_the_base_has_positions_for() -> None:
    """SD3 has positions for a square of the largest side, and wide buckets would exceed that side."""
    wide, limited = ((3000, 800), (900, 2600)), BucketRules(1024, 64, largest_side=1280)
    assert max(max(bucket) for bucket in assign_buckets(wide, BucketRules(1024, 64))) > 1280
    for bucket in assign_buckets(wide, limited):
        assert max(bucket) <= 1280 and bucket[0] * bucket[1] >= 0.85 * 1024**2


def test_given_aspects_are_the_only_ones() -> None:
    """Stable Cascade's sizes for 768² and multiples of 32: the largest sides within the area, in both orientations."""
    rules = BucketRules(768, 32, aspects=(1.0, 1 / 2, 9 / 16, 1 / 6))
    assert candidates(rules, 768) == [
        (288, 1856), (512, 1056), (576, 1024), (768, 768), (1024, 576), (1056, 512), (1856, 288)
    ]  # fmt: skip
    images = [(1000, 1000), (1200, 1000), (900, 2000), (5000, 900), (1000, 1700)]
    assert assign_buckets(images, rules) == [(768, 768), (768, 768), (512, 1056), (1856, 288), (576, 1024)]
    limited = BucketRules(768, 32, largest_side=1024, aspects=(1 / 6, 9 / 16))
    assert candidates(limited, 768) == [(576, 1024), (1024, 576)]


@pytest.mark.parametrize("aspects", [("4",), ("1/9",), ("0/1",), ("1/0",), ("a/b",), ("1/1", "3;4")])
def test_what_is_no_aspect_is_refused(aspects: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="aspect_ratios.*is not an aspect ratio from 1/8 to 8/1"):
        build_config({"aspect_ratios": aspects})
    with pytest.raises(ConfigError, match="aspect_ratios have no effect without aspect_ratio_bucketing"):
        build_config({"aspect_ratios": ("1/1",), "aspect_ratio_bucketing": False})


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=12), st.sampled_from([64, 512, 1024]))
def test_sides_are_multiples_and_nothing_is_enlarged_too_much(images: list[Size], resolution: int) -> None:
    step = max(8, resolution // 16)
    for image, bucket in zip(images, assign_buckets(images, BucketRules(resolution, step)), strict=True):
        assert bucket[0] % step == 0 == bucket[1] % step
        assert bucket[0] * bucket[1] <= resolution**2
        assert max(bucket) <= 4 * min(bucket)
        if min(image) >= 2 * step and max(image) <= 4 * min(image):
            assert enlargement(image, bucket) <= MAX_ENLARGEMENT


@given(sides, sides, sides, sides)
def test_what_is_cropped_off_is_a_share_of_the_image(width: int, height: int, across: int, down: int) -> None:
    loss = crop_loss((width, height), (across, down))
    assert -1e-9 <= loss < 1
    assert crop_loss((width, height), (width, height)) == pytest.approx(0)
    assert loss == pytest.approx(crop_loss((height, width), (down, across)))


def test_many_photographs_lose_two_percent_at_most_on_average() -> None:
    images = photographs(1400)
    buckets = assign_buckets(images, BucketRules(1024, 64))
    losses = [crop_loss(*pair) for pair in zip(images, buckets, strict=True)]
    assert sum(losses) / len(losses) <= 0.02
    assert max(losses) <= 0.06


@pytest.mark.parametrize("seed", range(5))
def test_thirty_photographs_need_ten_sizes_at_most(seed: int) -> None:
    images = photographs(30, seed)
    buckets = assign_buckets(images, BucketRules(1024, 64))
    assert len(set(buckets)) <= 10
    assert sum(crop_loss(*pair) for pair in zip(images, buckets, strict=True)) / 30 <= 0.05


def test_squares_only_when_asked() -> None:
    assert set(assign_buckets(photographs(20), BucketRules(512, 64, square=True))) == {(512, 512)}


def test_a_small_image_gets_a_smaller_bucket() -> None:
    large, small = assign_buckets([(2000, 2000), (400, 400)], BucketRules(1024, 64))
    assert large == (1024, 1024)
    assert small == (576, 576)


def test_extreme_aspects_are_cut_to_one_to_four() -> None:
    (bucket,) = assign_buckets([(8000, 1000)], BucketRules(1024, 64))
    assert bucket == (2048, 512)
