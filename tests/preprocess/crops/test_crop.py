"""Tests of the geometry of the crop."""

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocess.crops.crop import apply_crop, centre_crop

sides = st.integers(16, 4000)


@given(sides, sides, st.sampled_from([64, 512, 1024]))
def test_the_window_lies_inside_and_is_as_large_as_it_can_be(width: int, height: int, target: int) -> None:
    crop = centre_crop((width, height), (target, target))
    (left, top), (resized_width, resized_height) = crop.corner, crop.resized
    assert left >= 0 and left + target <= resized_width
    assert top >= 0 and top + target <= resized_height
    assert min(resized_width, resized_height) == target
    assert abs(resized_width - 2 * left - target) <= 1 and abs(resized_height - 2 * top - target) <= 1


@given(sides, sides)
def test_the_aspect_is_kept(width: int, height: int) -> None:
    crop = centre_crop((width, height), (1024, 1024))
    scale = 1024 / min(width, height)
    assert abs(crop.resized[0] - width * scale) <= 0.5 and abs(crop.resized[1] - height * scale) <= 0.5


def test_the_middle_is_what_remains() -> None:
    image = Image.new("RGB", (300, 100), "white")
    image.paste("red", (100, 0, 200, 100))
    cut = apply_crop(image, centre_crop(image.size, (64, 64)))
    assert cut.size == (64, 64)
    assert cut.getpixel((32, 32)) == (255, 0, 0) == cut.getpixel((4, 4))
