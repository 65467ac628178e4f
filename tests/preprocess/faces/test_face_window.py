"""Tests of the geometry of the windows around a subject."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from preprocess.crops.crop import Window, crop_to_window, largest_window
from preprocess.dataset import FaceBox
from preprocess.faces.window import face_window

ENLARGEMENT = 1.5
SMALL = 1e-6

sides = st.integers(16, 4000)
sizes = st.tuples(sides, sides)
targets = st.sampled_from([(1024, 1024), (832, 1216), (1216, 832), (512, 512), (640, 1536), (64, 128)])
shares = st.floats(0, 1)


@st.composite
def pictures_with_face(draw: st.DrawFn) -> tuple[tuple[int, int], FaceBox]:
    size = draw(sizes)
    width, height = (draw(st.floats(1, side)) for side in size)
    left, top = draw(st.floats(0, size[0] - width)), draw(st.floats(0, size[1] - height))
    return size, FaceBox(left, top, width, height, 0.9)


def lies_inside(window: Window, size: tuple[int, int]) -> bool:
    across = window.left >= 0 and window.left + window.width <= size[0] + SMALL
    return across and window.top >= 0 and window.top + window.height <= size[1] + SMALL


def holds(window: Window, face: FaceBox) -> bool:
    across = window.left <= face.left + SMALL and face.left + face.width <= window.left + window.width + SMALL
    return across and window.top <= face.top + SMALL and face.top + face.height <= window.top + window.height + SMALL


@given(pictures_with_face(), targets)
def test_a_face_window_lies_inside_with_the_wanted_aspect(
    picture: tuple[tuple[int, int], FaceBox], target: tuple[int, int]
) -> None:
    size, face = picture
    window = face_window(face, size, target[0] / target[1])
    assert lies_inside(window, size)
    assert window.width / window.height == pytest.approx(target[0] / target[1], rel=1e-9)


@given(pictures_with_face(), targets)
def test_the_whole_face_is_in_it_wherever_the_largest_window_could_hold_it(
    picture: tuple[tuple[int, int], FaceBox], target: tuple[int, int]
) -> None:
    size, face = picture
    largest = largest_window(size, target[0] / target[1], (0, 0))
    assume(face.width <= largest.width and face.height <= largest.height)
    assert holds(face_window(face, size, target[0] / target[1]), face)


@given(pictures_with_face(), targets)
def test_it_is_as_large_as_is_needed_and_no_larger_than_fits(
    picture: tuple[tuple[int, int], FaceBox], target: tuple[int, int]
) -> None:
    size, face = picture
    minimum = (target[0] / ENLARGEMENT, target[1] / ENLARGEMENT)
    aspect = target[0] / target[1]
    window = face_window(face, size, aspect, minimum)
    largest = largest_window(size, aspect, (0, 0))
    tight = face_window(face, size, aspect)
    assert window.width <= largest.width * (1 + SMALL)
    assert window.width >= min(minimum[0], largest.width) * (1 - SMALL)
    assert window.width == pytest.approx(max(tight.width, min(minimum[0], largest.width)))


@given(sizes, shares, shares, targets)
def test_the_largest_window_is_largest_and_holds_its_centre(
    size: tuple[int, int], across: float, down: float, target: tuple[int, int]
) -> None:
    centre = (across * size[0], down * size[1])
    window = largest_window(size, target[0] / target[1], centre)
    assert lies_inside(window, size)
    assert window.left - SMALL <= centre[0] <= window.left + window.width + SMALL
    assert window.top - SMALL <= centre[1] <= window.top + window.height + SMALL
    assert window.width == pytest.approx(size[0]) or window.height == pytest.approx(size[1])


@given(sizes, shares, shares, targets)
def test_its_middle_is_as_near_to_the_centre_as_the_picture_allows(
    size: tuple[int, int], across: float, down: float, target: tuple[int, int]
) -> None:
    centre = (across * size[0], down * size[1])
    window = largest_window(size, target[0] / target[1], centre)
    for x, wanted, start, length, limit in (
        (window.centre[0], centre[0], window.left, window.width, size[0]),
        (window.centre[1], centre[1], window.top, window.height, size[1]),
    ):
        at_border = (wanted < x and start <= SMALL) or (wanted > x and start + length >= limit - SMALL)
        assert x == pytest.approx(wanted, abs=SMALL) or at_border


@given(pictures_with_face(), targets)
def test_a_crop_is_the_window_to_the_pixel_and_stretches_nothing(
    picture: tuple[tuple[int, int], FaceBox], target: tuple[int, int]
) -> None:
    size, face = picture
    window = face_window(face, size, target[0] / target[1])
    crop = crop_to_window(size, window, target)
    scale = target[0] / window.width
    assert crop.original == size and crop.target == target
    for axis, start in ((0, window.left), (1, window.top)):
        assert 0 <= crop.corner[axis] <= crop.resized[axis] - target[axis]
        assert abs(crop.resized[axis] - size[axis] * scale) <= 0.5 + SMALL * scale
        assert abs(crop.corner[axis] - start * scale) <= 1 + SMALL * scale


def test_near_the_border_the_window_slides_and_keeps_its_shape() -> None:
    window = largest_window((1000, 1000), 0.5, (900, 500))
    assert window == Window(500, 0, 500, 1000)


def test_the_eyes_come_to_lie_at_two_fifths_of_the_height() -> None:
    face = FaceBox(450, 400, 100, 100, 0.9)
    window = face_window(face, (1000, 1000), 1, breadth=6.0)
    assert window == Window(200, 200, 600, 600)
    eyes = face.top + 0.4 * face.height
    assert (eyes - window.top) / window.height == pytest.approx(0.4)


def test_a_small_face_keeps_its_surroundings() -> None:
    assert face_window(FaceBox(500, 500, 10, 10, 0.9), (2000, 1000), 1).width == 500


def test_a_tight_window_grows_until_it_need_not_be_enlarged_too_much() -> None:
    face = FaceBox(500, 500, 100, 100, 0.9)
    assert face_window(face, (1200, 1200), 1).width == 600
    assert face_window(face, (1200, 1200), 1, (1024 / 1.5, 1024 / 1.5)).width == pytest.approx(682.67, abs=0.01)
    assert face_window(face, (1200, 1200), 1, (2000, 2000)).width == 1200
