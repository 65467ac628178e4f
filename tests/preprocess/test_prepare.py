"""Tests of preparing an upload as a dataset: what is kept, what is refused, and which warnings are given."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.conftest import EXAMPLE, png

MakeFiles = Callable[[Mapping[str, bytes]], Path]
OPTIONS = {"resolution": 64, "captioner": "none", "aspect_ratio_bucketing": False}


def prepared(source: Path, tmp_path: Path, **options: object) -> PreparedDataset:
    return prepare([source], build_settings(DataConfig, OPTIONS | options), tmp_path / "dataset")


def test_the_example(tmp_path: Path) -> None:
    dataset = prepared(EXAMPLE, tmp_path)
    assert len(dataset.examples) == 8
    assert dataset.examples[0].caption == "a photo of TOK"
    assert dataset.examples[0].caption_source == "robot_0.txt"
    assert not dataset.all_warnings and not dataset.rejected
    for example in dataset.examples:
        with Image.open(dataset.folder / example.views[0].file) as image:
            assert image.size == (64, 64)


def test_a_bad_file_among_good_ones_is_named_and_the_others_are_kept(make_zip: MakeFiles, tmp_path: Path) -> None:
    source = make_zip({"good.png": png(), "text.jpg": b"no image", "cut.png": png((300, 300))[:200], "doc.pdf": b"x"})
    dataset = prepared(source, tmp_path)
    assert [example.source for example in dataset.examples] == ["good.png"]
    reasons = {rejected.source: rejected.reason for rejected in dataset.rejected}
    assert reasons.keys() == {"text.jpg", "cut.png", "doc.pdf"}
    assert "is not an image, or has a format" in reasons["text.jpg"]
    assert "damaged" in reasons["cut.png"]
    lines = (dataset.folder / "rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["source"] for line in lines} == reasons.keys()


def test_images_of_one_name_in_two_folders_are_both_kept(make_zip: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_zip({"x/1.png": png(), "y/1.png": png(colour=(0, 0, 255))}), tmp_path)
    assert len({example.views[0].file for example in dataset.examples}) == 2


def test_a_caption_without_its_image_is_named(make_zip: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_zip({"a.png": png(), "b.txt": b"lost"}), tmp_path)
    assert [rejected.source for rejected in dataset.rejected] == ["b.txt"]
    assert "is a caption without an image" in dataset.rejected[0].reason


@pytest.mark.parametrize("caption", ["b.txt", "b.caption", "b.json", "b.png.txt"])
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"no image", "not an image"),
        (b"", "is empty (0 bytes)"),
        (png((8, 8)), "too small"),
        (png(), "has the same pixels as a.png"),
    ],
)
def test_a_caption_whose_image_was_refused_says_why(
    image: bytes, reason: str, caption: str, make_zip: MakeFiles, tmp_path: Path
) -> None:
    text = b'{"text": "a TOK"}' if caption.endswith("json") else b"a TOK"
    dataset = prepared(make_zip({"a.png": png(), "b.png": image, caption: text}), tmp_path)
    said = {item.source: item.reason for item in dataset.rejected}
    assert said.keys() == {"b.png", caption}
    assert f"{caption}: its image is not used" in said[caption] and reason in said[caption]


def test_a_row_whose_image_was_refused_says_why(make_zip: MakeFiles, tmp_path: Path) -> None:
    table = b"file,caption\na.png,a TOK\nb.png,TOK\nc.png,TOK"
    dataset = prepared(make_zip({"a.png": png(), "b.png": b"no image", "captions.csv": table}), tmp_path)
    assert any(
        "the images of 1 of its 3 rows are not used: b.png: is not an image" in line for line in dataset.warnings
    )
    assert any("1 of its 3 rows match no image that is used: c.png" in line for line in dataset.warnings)


def test_a_number_of_images_is_drawn_by_the_seed(make_zip: MakeFiles, tmp_path: Path) -> None:
    """Only concept images are drawn. Those that are left out are named, and so are their captions."""
    names = [f"p{number}" for number in range(6)]
    files = {f"{name}.png": png(colour=(40 * index, 0, 0)) for index, name in enumerate(names)}
    files |= {f"{name}.txt": b"a TOK robot" for name in names}
    files |= {f"reg/1_robot/r{number}.png": png(colour=(0, 60 * number, 9)) for number in range(4)}
    chosen: list[set[str]] = []
    for seed in (0, 0, 1):
        dataset = prepared(make_zip(files), tmp_path / f"{len(chosen)}", max_train_samples=2, seed=seed)
        concept = {example.source for example in dataset.examples if example.concept is not None}
        assert len(concept) == 2 and len(dataset.examples) == 6
        left_out = {rejected.source: rejected.reason for rejected in dataset.rejected}
        assert {f"{name}.png" for name in names} - concept <= left_out.keys()
        assert all("not selected, because of max_train_samples" in reason for reason in left_out.values())
        chosen.append(concept)
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(prepared(make_zip(files), tmp_path / "all", max_train_samples=6).examples) == 10


def test_a_table_that_matches_nothing_is_named(make_zip: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_zip({"a.png": png(), "captions.csv": b"file,caption\nx.png,one\ny.png,two"}), tmp_path)
    assert any("captions.csv: none of its 2 rows matches an image" in warning for warning in dataset.all_warnings)


def test_images_without_a_caption_are_named(make_zip: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_zip({"a.png": png(), "b.png": png(colour=(0, 9, 9)), "b.txt": b"a TOK"}), tmp_path)
    assert any("1 of 2 images have no caption" in warning and "a.png" in warning for warning in dataset.all_warnings)


def test_a_caption_without_the_trigger_is_completed_and_named(make_zip: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_zip({"a.png": png(), "a.txt": b"a red wall in Tokyo"}), tmp_path)
    assert dataset.examples[0].caption == "TOK, a red wall in Tokyo"
    assert any("lacks the trigger word" in warning for warning in dataset.all_warnings)


def test_enlarging_is_named(make_zip: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_zip({"small.png": png((20, 20))}), tmp_path)
    assert any(
        "small.png: 20×20 is too small for the resolution 64; it is trained at 24×24" in warning
        for warning in dataset.all_warnings
    )


def test_size_conditioning_tells_the_truth(make_zip: MakeFiles, tmp_path: Path) -> None:
    from trainer.data.latent_cache import size_conditioning

    dataset = prepared(make_zip({"wide.png": png((300, 100))}), tmp_path)
    size = size_conditioning(dataset.examples[0].views[0].crop)
    assert size.original == (100, 300)  # height, width of the file
    assert size.crop == (0, 64)  # the image is 192 × 64 after the resize, and the crop is centred
    assert size.target == (64, 64)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.md": b"hello"}, r"no usable image among 1 files: readme\.md"),
        ({"a.jpg": b"text"}, r"no usable image among 1 files: a\.jpg: is not an image"),
        ({".DS_Store": b"x"}, "the archive is empty"),
    ],
)
def test_nothing_to_train_on_is_an_error(
    files: Mapping[str, bytes], message: str, make_zip: MakeFiles, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        prepared(make_zip(files), tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="contains no images"):
        prepared(tmp_path / "empty", tmp_path)


def test_the_digest_follows_pixels_and_captions(make_folder: MakeFiles, tmp_path: Path) -> None:
    folder = make_folder({"a.png": png(), "a.txt": b"a TOK"})
    first = prepared(folder, tmp_path / "1").digest()
    assert prepared(folder, tmp_path / "2").digest() == first
    (folder / "a.txt").write_text("a red TOK")
    assert prepared(folder, tmp_path / "3").digest() != first


def test_upper_case_suffixes(make_zip: MakeFiles, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (70, 70)).save(buffer, "JPEG")
    assert len(prepared(make_zip({"IMG_1.JPG": buffer.getvalue()}), tmp_path).examples) == 1
