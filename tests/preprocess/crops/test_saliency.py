"""Tests of the window around the most detailed part of an image."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocess.crops.crop import Window
from preprocess.crops.saliency import gradient_energy, salient_window

CUP = (307, 165)  # the middle of cup and saucer in coffee.png, 600×400


def photograph(name: str) -> Image.Image:
    package = importlib.util.find_spec("skimage")
    assert package and package.submodule_search_locations
    with Image.open(Path(package.submodule_search_locations[0]) / "data" / name) as image:
        return image.convert("RGB")


def speckled(size: tuple[int, int], patch: tuple[int, int, int, int]) -> Image.Image:
    """Return a grey image with noise in the patch (left, top, right, bottom)."""
    image = Image.new("RGB", size, "grey")
    noise = np.random.default_rng(0).integers(0, 256, (patch[3] - patch[1], patch[2] - patch[0], 3), np.uint8)
    image.paste(Image.fromarray(noise), patch[:2])
    return image


def holds(window: Window, patch: tuple[int, int, int, int]) -> bool:
    across = window.left <= patch[0] and patch[2] <= window.left + window.width
    return across and window.top <= patch[1] and patch[3] <= window.top + window.height


@pytest.mark.parametrize("patch", [(20, 60, 120, 160), (660, 40, 760, 140), (350, 100, 450, 200)])
def test_the_window_goes_where_something_is(patch: tuple[int, int, int, int]) -> None:
    assert holds(salient_window(speckled((800, 200), patch), 1.0), patch)
    upright = speckled((200, 800), (patch[1], patch[0], patch[3], patch[2]))
    assert holds(salient_window(upright, 1.0), (patch[1], patch[0], patch[3], patch[2]))


def test_a_subject_that_fits_comes_near_the_middle_of_the_window() -> None:
    window = salient_window(speckled((1000, 400), (500, 150, 600, 250)), 1.0)
    assert window.centre[0] == pytest.approx(550, abs=60)


def test_of_two_subjects_one_is_kept_whole_instead_of_the_gap_between_them() -> None:
    picture = speckled((900, 200), (20, 20, 180, 180))
    picture.paste(speckled((160, 160), (0, 0, 160, 160)), (700, 20))
    window = salient_window(picture, 1.0)
    assert holds(window, (30, 30, 170, 170)) or holds(window, (710, 30, 850, 170))


def test_the_cup_is_in_the_window_of_a_photograph() -> None:
    for aspect in (1.0, 0.6):
        window = salient_window(photograph("coffee.png"), aspect)
        assert window.centre[0] == pytest.approx(CUP[0], abs=45)


def test_where_the_window_goes_does_not_depend_on_the_size_of_the_file() -> None:
    coffee = photograph("coffee.png")
    small, large = salient_window(coffee, 0.6), salient_window(coffee.resize((1800, 1200)), 0.6)
    assert large.centre[0] / 3 == pytest.approx(small.centre[0], abs=8)


def test_a_plain_picture_gives_its_middle() -> None:
    assert salient_window(Image.new("RGB", (1000, 400), "grey"), 1.0).centre == pytest.approx((500, 200), abs=2)
    assert gradient_energy(Image.new("RGB", (1000, 400), "grey")).max() == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 700), st.integers(2, 700), st.floats(0.3, 3))
def test_the_window_is_the_largest_of_its_aspect_and_inside(width: int, height: int, aspect: float) -> None:
    window = salient_window(Image.effect_noise((width, height), 50).convert("RGB"), aspect)
    assert window.width / window.height == pytest.approx(aspect)
    assert window.left >= 0 and window.left + window.width <= width + 1e-6
    assert window.top >= 0 and window.top + window.height <= height + 1e-6
    assert window.width == pytest.approx(width) or window.height == pytest.approx(height)


def test_it_takes_milliseconds() -> None:
    picture = photograph("astronaut.png").resize((1024, 1024))
    times = []
    for _ in range(5):
        start = time.process_time()
        salient_window(picture, 0.7)
        times.append(time.process_time() - start)
    assert min(times) < 0.03
