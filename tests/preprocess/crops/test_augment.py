"""Tests of the views of an image: where they are cropped, that masks follow them, and that their recorded crops, from
which SDXL's crop conditioning is computed, describe the written files."""

import random
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from preprocess.crops.augment import AugmentationRules, PlannedView, jitter_crop, plan_views
from preprocess.crops.crop import Crop, Size, Window, apply_crop, crop_to_window, largest_window
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from settings.record import build_settings

TARGETS = [(64, 64), (96, 48), (40, 104)]
RESAMPLING = 3
"""Largest accepted difference, in levels of 255, between the resampled image and its resampled mirror image."""
ROUNDING = 1.01
"""Resized pixels by which a window may deviate from the plan: half a pixel at its corner, half in its size."""

sides = st.integers(40, 1200)


@st.composite
def crops(draw: st.DrawFn, side: st.SearchStrategy[int] = sides) -> Crop:
    """Draw any crop that a subject finder may return: a window of the target's aspect ratio somewhere in an image."""
    original, target = (draw(side), draw(side)), draw(st.sampled_from(TARGETS))
    largest = largest_window(original, target[0] / target[1])
    share = draw(st.floats(0.3, 1))
    width, height = largest.width * share, largest.height * share
    left = draw(st.floats(0, 1)) * (original[0] - width)
    top = draw(st.floats(0, 1)) * (original[1] - height)
    return crop_to_window(original, Window(left, top, width, height), target)


rules = st.builds(AugmentationRules, st.booleans(), st.integers(0, 6), st.floats(0, 0.5), st.floats(0, 0.5))


def astronaut(size: Size = (512, 512)) -> Image.Image:
    return Image.fromarray(skimage.data.astronaut()).resize(size)


def picture_and_mask(size: Size) -> tuple[Image.Image, Image.Image]:
    """Return a photograph whose red channel is the mask, and the mask: a shape without mirror symmetry."""
    mask = Image.new("L", size)
    width, height = size
    ImageDraw.Draw(mask).ellipse((0.1 * width, 0.2 * height, 0.4 * width, 0.9 * height), fill=255)
    ImageDraw.Draw(mask).rectangle((0.4 * width, 0.2 * height, 0.8 * width, 0.3 * height), fill=160)
    _, green, blue = astronaut(size).split()
    return Image.merge("RGB", (mask, green, blue)), mask


def difference(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of two images, in levels of 255."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def lies_inside(inner: Window, outer: Window, tolerance: tuple[float, float]) -> bool:
    """Whether a window lies in another. `tolerance`: pixels of the original, horizontally and vertically."""
    across, down = tolerance
    return (
        inner.left >= outer.left - across
        and inner.top >= outer.top - down
        and inner.left + inner.width <= outer.left + outer.width + across
        and inner.top + inner.height <= outer.top + outer.height + down
    )


@given(crops(), rules, st.integers(0, 9))
def test_every_view_lies_in_the_resized_picture_and_is_never_stretched(
    crop: Crop, rules: AugmentationRules, seed: int
) -> None:
    for view in plan_views(crop, rules, str(seed)):
        (left, top), (width, height), (wide, high) = view.crop.corner, view.crop.resized, view.crop.original
        assert view.crop.target == crop.target and view.crop.original == crop.original
        assert left >= 0 and left + crop.target[0] <= width
        assert top >= 0 and top + crop.target[1] <= height
        assert abs(width / wide - height / high) <= 0.5 / wide + 0.5 / high + 1e-9


@given(crops(), rules)
def test_the_plain_view_first_then_its_mirror_image_then_the_augmented_ones(
    crop: Crop, rules: AugmentationRules
) -> None:
    views = list(plan_views(crop, rules, "seed"))
    assert views[0] == PlannedView(crop)
    assert len(views) == 1 + rules.horizontal_flip + rules.augmented_views
    if rules.horizontal_flip:
        assert views[1] == PlannedView(crop.mirrored(), flipped=True)
    else:
        assert not any(view.flipped for view in views)
    for view in views:
        assert all(abs(factor - 1) <= rules.color_jitter + 1e-9 for factor in view.colour_factors)


@given(crops(), st.floats(0, 0.5), st.integers(0, 99))
def test_jitter_never_leaves_the_window_and_never_shrinks_it_more_than_asked(
    crop: Crop, amount: float, seed: int
) -> None:
    jittered = jitter_crop(crop, amount, random.Random(seed))
    pixel = crop.original[0] / jittered.resized[0], crop.original[1] / jittered.resized[1]
    outer, inner = crop.window(), jittered.window()
    assert lies_inside(inner, outer, (ROUNDING * pixel[0], ROUNDING * pixel[1]))
    assert inner.width >= (1 - amount) * outer.width * 0.97 - pixel[0]
    assert inner.height >= (1 - amount) * outer.height * 0.97 - pixel[1]


@given(crops(), st.floats(0, 0.5), st.integers(0, 99))
def test_no_view_shows_what_lies_beyond_the_window(crop: Crop, amount: float, seed: int) -> None:
    for view in plan_views(crop, AugmentationRules(True, 4, amount), str(seed)):
        shown = view.crop.mirrored() if view.flipped else view.crop
        pixel = shown.original[0] / shown.resized[0], shown.original[1] / shown.resized[1]
        assert lies_inside(shown.window(), crop.window(), (ROUNDING * pixel[0], ROUNDING * pixel[1]))


def test_jitter_moves_the_window_to_all_sides() -> None:
    crop = crop_to_window((1000, 1000), Window(200, 300, 500, 500), (64, 64))
    generator = random.Random(0)
    centres = np.array([jitter_crop(crop, 0.3, generator).window().centre for _ in range(200)])
    assert centres.min(axis=0) == pytest.approx((390, 490), abs=20)
    assert centres.max(axis=0) == pytest.approx((510, 610), abs=20)


def test_no_jitter_changes_nothing() -> None:
    crop = crop_to_window((640, 480), Window(100, 50, 320, 320), (64, 64))
    assert jitter_crop(crop, 0.0, random.Random(0)) == crop


@given(crops())
def test_the_mirror_image_of_a_mirror_image_is_the_picture(crop: Crop) -> None:
    assert crop.mirrored().mirrored() == crop


@settings(max_examples=30, deadline=None)
@given(crops(st.integers(60, 400)), st.floats(0, 0.5), st.integers(0, 9))
def test_picture_and_mask_stay_aligned_in_every_view(crop: Crop, crop_jitter: float, seed: int) -> None:
    picture, mask = picture_and_mask(crop.original)
    views = list(plan_views(crop, AugmentationRules(True, 3, crop_jitter), str(seed)))
    assert any(view.flipped for view in views)
    for view in views:
        rendered, cut = view.render(picture), view.cut(mask)
        assert rendered.size == cut.size == crop.target and cut.mode == "L"
        assert difference(rendered.getchannel("R"), cut) <= RESAMPLING


@settings(max_examples=30, deadline=None)
@given(crops(st.integers(60, 400)), st.floats(0, 0.5), st.integers(0, 9))
def test_the_crop_of_a_flipped_view_is_that_of_the_mirrored_picture(crop: Crop, jitter: float, seed: int) -> None:
    picture = astronaut(crop.original)
    for view in plan_views(crop, AugmentationRules(True, 3, jitter), str(seed)):
        seen = ImageOps.mirror(picture) if view.flipped else picture
        assert difference(view.render(picture), apply_crop(seen, view.crop)) <= RESAMPLING


@settings(max_examples=30, deadline=None)
@given(crops(st.integers(200, 400)), st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.booleans())
def test_a_mark_is_where_the_crop_says(crop: Crop, across: float, down: float, flipped: bool) -> None:
    window = crop.window()
    x, y = window.left + across * window.width, window.top + down * window.height
    picture = Image.new("RGB", crop.original)
    half = 4 * crop.original[0] / crop.resized[0]
    ImageDraw.Draw(picture).ellipse((x - half, y - half, x + half, y + half), fill="white")
    view = PlannedView(crop.mirrored() if flipped else crop, flipped)
    light = np.asarray(view.render(picture).convert("L"), float)
    rows, columns = np.indices(light.shape) + 0.5
    place = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    expected = ((1 - across) if flipped else across) * crop.target[0], down * crop.target[1]
    assert place == pytest.approx(expected, abs=1.5)


@given(crops(), rules, st.text(max_size=20))
def test_the_same_seed_gives_the_same_plan(crop: Crop, rules: AugmentationRules, seed: str) -> None:
    assert list(plan_views(crop, rules, seed)) == list(plan_views(crop, rules, seed))


def test_another_seed_gives_another_plan() -> None:
    crop = crop_to_window((640, 480), Window(100, 50, 300, 300), (64, 64))
    rules = AugmentationRules(augmented_views=2, crop_jitter=0.2, color_jitter=0.2)
    assert list(plan_views(crop, rules, "0 abc")) != list(plan_views(crop, rules, "1 abc"))


def test_other_light_changes_the_picture_and_never_the_mask() -> None:
    picture, mask = picture_and_mask((300, 200))
    crop = crop_to_window(picture.size, Window(20, 10, 150, 150), (64, 64))
    plain, bright = PlannedView(crop), PlannedView(crop, colour_factors=(1.4, 0.7, 1.2))
    assert difference(bright.render(picture), plain.render(picture)) > 20
    assert difference(bright.cut(mask), plain.cut(mask)) == 0
    assert bright.cut(picture).tobytes() == plain.render(picture).tobytes()


@pytest.mark.parametrize(("index", "channel"), [(0, "V"), (2, "S")])
def test_each_factor_changes_what_it_is_called(index: int, channel: str) -> None:
    crop = crop_to_window((200, 200), Window(0, 0, 200, 200), (64, 64))
    picture = Image.new("RGB", (200, 200), (120, 90, 60))
    factors = tuple(1.3 if place == index else 1.0 for place in range(3))
    changed = PlannedView(crop, colour_factors=factors).render(picture)
    before, after = (
        np.asarray(view.convert("HSV").getchannel(channel)).mean()
        for view in (PlannedView(crop).render(picture), changed)
    )
    assert after > 1.1 * before


def test_what_is_written_is_what_is_recorded(tmp_path: Path) -> None:
    """Compares written pixels and masks with the recorded crops, for all views of a partly transparent photograph."""
    picture, mask = picture_and_mask((500, 400))
    ImageDraw.Draw(mask).rectangle((300, 300, 350, 390), fill=255)
    upload = tmp_path / "upload"
    upload.mkdir()
    laid_on_white = Image.composite(picture, Image.new("RGB", picture.size, "white"), mask)
    Image.merge("RGBA", (*picture.split(), mask)).save(upload / "a.png")
    options = {"resolution": 96, "captioner": "none", "mask": "alpha", "horizontal_flip": True}
    config = build_settings(DataConfig, options | {"augmented_views": 5, "crop_jitter": 0.3})
    dataset = prepare([upload], config, tmp_path / "dataset")
    (example,) = dataset.examples
    assert len(example.views) == 7 and 1 < sum(view.flipped for view in example.views) < 7
    for view in example.views:
        assert view.mask
        with Image.open(dataset.folder / view.file) as image, Image.open(dataset.folder / view.mask) as cut:
            seen, seen_mask = map(ImageOps.mirror, (laid_on_white, mask)) if view.flipped else (laid_on_white, mask)
            assert image.size == cut.size == example.bucket
            assert difference(image, apply_crop(seen, view.crop)) <= RESAMPLING
            assert difference(cut, apply_crop(seen_mask, view.crop)) <= RESAMPLING


def test_other_light_leaves_the_written_masks_alone(tmp_path: Path) -> None:
    picture, mask = picture_and_mask((300, 300))
    (tmp_path / "upload").mkdir()
    Image.merge("RGBA", (*picture.split(), mask)).save(tmp_path / "upload" / "a.png")
    options = {"resolution": 64, "captioner": "none", "mask": "alpha", "augmented_views": 3, "color_jitter": 0.5}
    dataset = prepare([tmp_path / "upload"], build_settings(DataConfig, options), tmp_path / "dataset")
    (example,) = dataset.examples
    assert len({(dataset.folder / str(view.mask)).read_bytes() for view in example.views}) == 1
    assert len({(dataset.folder / view.file).read_bytes() for view in example.views}) == 4


def test_views_of_one_image_do_not_depend_on_its_neighbours_or_threads(tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
        astronaut().save(folder / "b.png")
    Image.fromarray(skimage.data.chelsea()).save(both / "a.png")
    options = {"resolution": 64, "captioner": "none", "augmented_views": 3, "crop_jitter": 0.3, "color_jitter": 0.2}

    def views(source: Path, name: str, **more: int) -> list[bytes]:
        dataset = prepare([source], build_settings(DataConfig, options | more), tmp_path / name)
        (example,) = (example for example in dataset.examples if example.source == "b.png")
        return [(dataset.folder / view.file).read_bytes() for view in example.views]

    one, other = views(alone, "1", num_workers=1), views(both, "2", num_workers=4)
    assert one == other
    reseeded = views(alone, "3", seed=1)
    assert reseeded[0] == one[0]
    assert all(new != old for new, old in zip(reseeded[1:], one[1:], strict=True))


def test_the_limit_of_augmented_views_counts_the_written_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.prepare.MOST_AUGMENTED", 5)
    (tmp_path / "upload").mkdir()
    astronaut().save(tmp_path / "upload" / "a.png")
    options = {"resolution": 64, "captioner": "none", "crop_jitter": 0.3, "horizontal_flip": True}
    config = build_settings(DataConfig, options | {"augmented_views": 3})
    (example,) = prepare([tmp_path / "upload"], config, tmp_path / "1").examples
    assert len(example.views) == 5
    config = build_settings(DataConfig, options | {"augmented_views": 4})
    with pytest.raises(DatasetError, match="4 views of 1 images would be 6 files, more than 5"):
        prepare([tmp_path / "upload"], config, tmp_path / "2")
