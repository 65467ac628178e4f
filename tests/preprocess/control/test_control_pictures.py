"""Tests of conditioning images: made from the views, or given beside the images and then cropped and mirrored alike."""

import io
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from preprocess.control.filters import FILTERS
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from settings.record import ConfigError, build_settings

MakeFolder = Callable[[Mapping[str, bytes]], Path]


def _picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An image of 8×8 blocks in random colours, so that its places differ."""
    levels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.NEAREST)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _config(**values: object) -> DataConfig:
    return build_settings(DataConfig, {"resolution": 64, "captioner": "none", **values})


def _pixels(dataset: PreparedDataset, name: str | None) -> np.ndarray:
    assert name is not None
    with Image.open(dataset.folder / name) as image:
        return np.asarray(image)


def test_a_given_picture_is_cut_and_mirrored_as_its_image(make_folder: MakeFolder, tmp_path: Path) -> None:
    """The conditioning image is the training image itself, so every view of both must be equal."""
    folder = make_folder({f"{where}{n}.png": _png(_picture(n)) for n in range(3) for where in ("", "conditioning/")})
    config = _config(control="files", horizontal_flip=True, augmented_views=2, crop_jitter=0.3)
    dataset = prepare([folder], config, tmp_path / "out")
    assert len(dataset.examples) == 3 and not dataset.rejected
    views = [view for example in dataset.examples for view in example.views]
    assert len(views) == 12 and any(view.flipped for view in views)
    assert all(np.array_equal(_pixels(dataset, view.file), _pixels(dataset, view.control)) for view in views)


def test_colours_of_the_conditioning_picture_stay(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"a.png": _png(_picture(1)), "conditioning/a.png": _png(_picture(1))})
    config = _config(control="files", augmented_views=1, color_jitter=0.5, aspect_ratio_bucketing=False)
    (example,) = prepare([folder], config, tmp_path / "out").examples
    dataset = PreparedDataset.read(tmp_path / "out")
    plain, jittered = dataset.examples[0].views
    assert np.array_equal(_pixels(dataset, plain.control), _pixels(dataset, jittered.control))
    assert not np.array_equal(_pixels(dataset, plain.file), _pixels(dataset, jittered.file))
    assert example == dataset.examples[0]


def test_a_made_picture_has_the_colours_that_are_trained(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"a.png": _png(_picture(1))})
    prepare([folder], _config(control="inpainting", augmented_views=2, color_jitter=0.5), tmp_path / "out")
    dataset = PreparedDataset.read(tmp_path / "out")
    for view in dataset.examples[0].views:
        image, control = _pixels(dataset, view.file), _pixels(dataset, view.control)
        known = control[..., 3] == 255
        assert known.any() and np.array_equal(control[known][:, :3], image[known])


@pytest.mark.parametrize("kind", list(FILTERS))
def test_made_pictures_have_the_size_of_their_views(kind: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder({"a.png": _png(_picture(1))})
    config = _config(control=kind, horizontal_flip=True)
    dataset = prepare([folder], config, tmp_path / "out")
    plain, mirrored = dataset.examples[0].views
    for view in (plain, mirrored):
        image, control = _pixels(dataset, view.file), _pixels(dataset, view.control)
        assert control.shape[:2] == image.shape[:2]
        assert not np.array_equal(control[..., :3], image)
    if kind == "canny":
        edges = cv2.Canny(_pixels(dataset, mirrored.file), 100, 200)
        assert edges.any() and np.array_equal(_pixels(dataset, mirrored.control)[..., 1], edges)


def test_the_same_seed_makes_the_same_holes() -> None:
    picture = _picture(1)
    one, same, other = (FILTERS["inpainting"](picture, random.Random(seed)) for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes() != other.tobytes()
    levels = np.asarray(one)
    erased = levels[..., 3] == 0
    assert 0 < erased.mean() < 1 and not levels[erased].any()
    assert np.array_equal(levels[~erased][:, :3], np.asarray(picture)[~erased])


def test_a_small_picture_is_blurred_and_grey_has_no_colour() -> None:
    picture = _picture(1)
    blurred = np.asarray(FILTERS["super_resolution"](picture, random.Random(0)), float)
    assert np.abs(np.diff(blurred, axis=1)).max() < np.abs(np.diff(np.asarray(picture, float), axis=1)).max()
    levels = np.asarray(FILTERS["grey"](picture, random.Random(0)))
    assert np.array_equal(levels[..., 0], levels[..., 2]) and levels.std() > 0
    strokes, edges = (np.asarray(FILTERS[kind](picture, random.Random(0))) > 0 for kind in ("scribble", "canny"))
    assert strokes.mean() > edges.mean() > 0


def test_what_does_not_belong_together_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    files = {f"images/{name}.png": _png(_picture(seed)) for seed, name in enumerate("abcd")}
    files["conditioning/a.jpg"] = _png(_picture(0, (48, 32)))  # smaller, and with another suffix
    files["conditioning/b.png"] = _png(_picture(1, (64, 96)))
    files["conditioning/c.png"] = b"no picture"
    files["conditioning/e.png"] = _png(_picture(4))
    dataset = prepare([make_folder(files)], _config(control="files"), tmp_path / "out")
    assert [example.source for example in dataset.examples] == ["images/a.png"]
    reasons = {item.source: item.reason for item in dataset.rejected}
    assert "b.png is 64×96, and the image 96×64" in reasons["images/b.png"]
    assert "images/c.png: its conditioning image c.png: is not an image" in reasons["images/c.png"]
    assert "without a training image of the same name" in reasons["conditioning/b.png"]
    assert "save it as conditioning/d.png" in reasons["images/d.png"]
    assert "without a training image of the same name" in reasons["conditioning/e.png"]


def test_a_column_names_the_picture(make_folder: MakeFolder, tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": "a shape", "edges": f"conditioning/{1 - n}.png"} for n in (0, 1)]
    files = {f"{where}{n}.png": _png(_picture(n)) for n in (0, 1) for where in ("", "conditioning/")}
    files["metadata.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    dataset = prepare(
        [make_folder(files)], _config(control="files", control_column="edges", crop="centre"), tmp_path / "out"
    )
    first, second = dataset.examples
    assert np.array_equal(_pixels(dataset, first.views[0].file), _pixels(dataset, second.views[0].control))
    assert np.array_equal(_pixels(dataset, second.views[0].file), _pixels(dataset, first.views[0].control))


def test_without_control_nothing_of_it_is_written(make_folder: MakeFolder, tmp_path: Path) -> None:
    prepare([make_folder({"a.png": _png(_picture(1))})], _config(), tmp_path / "out")
    assert not (tmp_path / "out" / "conditioning").exists()
    assert "control" not in (tmp_path / "out" / "dataset.jsonl").read_text(encoding="utf-8")


def test_captions_stay_as_they_are(make_folder: MakeFolder, tmp_path: Path) -> None:
    files = {"a.png": _png(_picture(1)), "a.txt": b"a red star", "b.png": _png(_picture(2))}
    config = _config(control="canny", class_word="star")
    dataset = prepare([make_folder(files)], config, tmp_path / "out")
    assert [example.caption for example in dataset.examples] == ["a red star", ""]
    assert not any("trigger" in warning for warning in dataset.all_warnings)


def test_a_dataset_without_conditioning_pictures_is_not_reopened(make_folder: MakeFolder, tmp_path: Path) -> None:
    prepare([make_folder({"a.png": _png(_picture(1))})], _config(), tmp_path / "out")
    with pytest.raises(DatasetError, match="no conditioning image; prepare the images again with control: canny"):
        reopen(tmp_path / "out", _config(control="canny"), BaseRequirements())


def test_a_column_without_files_is_an_error() -> None:
    with pytest.raises(ConfigError, match="control_column has no effect"):
        _config(control="canny", control_column="edges")
