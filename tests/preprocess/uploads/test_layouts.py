"""Tests of the folder layouts of other programs: masks beside images, regularisation images, outputs of trainings."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from settings.record import build_settings

MakeFiles = Callable[[Mapping[str, bytes]], Path]
OPTIONS = {"resolution": 64, "captioner": "none", "class_word": "dog"}


def picture(seed: int, size: tuple[int, int] = (96, 96)) -> bytes:
    """An image of enlarged noise. Different seeds look different."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def disc(level: int = 255, size: tuple[int, int] = (96, 96)) -> bytes:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill=level)
    return saved(mask)


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def prepared(folder: Path, tmp_path: Path, **options: object) -> PreparedDataset:
    return prepare([folder], build_settings(DataConfig, OPTIONS | options), tmp_path / "dataset")


def sources(dataset: PreparedDataset) -> list[str]:
    return sorted(example.source for example in dataset.examples)


def reasons(dataset: PreparedDataset) -> dict[str, str]:
    return {item.source: item.reason for item in dataset.rejected}


LAYOUTS = [
    ("p0.png", "p0-masklabel.png"),
    ("p0.png", "p0.mask.png"),
    ("p0.jpg", "p0_mask.png"),
    ("p0.png", "p0-mask.jpg"),
    ("p0.png", "p0.png.mask.png"),
    ("p0.png", "masks/p0.png"),
    ("p0.png", "mask/p0_mask.png"),
    ("images/p0.png", "masks/p0.png"),
    ("project/img/p0.jpg", "project/Masks/P0.png"),
    ("dog/p0.png", "dog/masks/p0.png"),
    ("images/10_TOK dog/p0.png", "masks/10_TOK dog/p0.png"),
]


@pytest.mark.parametrize(("image", "mask"), LAYOUTS)
@pytest.mark.parametrize("setting", ["files", "auto"])
def test_a_mask_beside_an_image_is_where_the_loss_counts(
    setting: str, image: str, mask: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    dataset = prepared(make_folder({image: picture(1), mask: disc()}), tmp_path, mask=setting)
    assert sources(dataset) == [image] and not dataset.rejected
    view = dataset.examples[0].views[0]
    assert view.mask is not None and dataset.examples[0].crop_source == "mask"
    with Image.open(dataset.folder / view.mask) as trained:
        levels = np.asarray(trained)
    assert levels[32, 32] == 255 and levels[0, 0] == 0 and 0.15 < (levels > 128).mean() < 0.3


@pytest.mark.parametrize(("image", "mask"), LAYOUTS)
def test_a_mask_that_is_not_asked_for_is_named_and_not_trained(
    image: str, mask: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    dataset = prepared(make_folder({image: picture(1), mask: disc()}), tmp_path)
    assert sources(dataset) == [image] and dataset.examples[0].views[0].mask is None
    assert f"the mask of {image} and not used; set mask: files" in reasons(dataset)[mask]


@pytest.mark.parametrize("name", ["carnival_mask.png", "masks/venice.png", "a mask.png", "mask/gas-mask.png"])
def test_a_picture_of_a_mask_is_a_picture(name: str, make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({name: picture(1), "b.png": picture(2)}), tmp_path)
    assert sources(dataset) == sorted([name, "b.png"])
    warned = [line for line in dataset.all_warnings if line.startswith(f"{name}: is named like a mask")]
    assert len(warned) == (0 if name == "masks/venice.png" else 1)


@pytest.mark.parametrize(
    ("names", "masked", "unused"),
    [
        (["masks/p1.png", "masks/p1-masklabel.png", "p0.png"], "masks/p1.png", {}),
        (["masks/p1.png", "masks/p1-masklabel.png"], "masks/p1.png", {}),
        (["p0.png", "p0_mask.png", "p0_mask_mask.png"], "p0.png", {"p0_mask_mask.png": "no image of that name"}),
        (["p0.png", "masks/p0.png", "masks/p1.png", "masks/p1_mask.png"], "p0.png",
         {"masks/p1.png": "there is no image", "masks/p1_mask.png": "there is no image"}),
    ],
)  # fmt: skip
def test_masks_of_masks(
    names: list[str], masked: str, unused: dict[str, str], make_folder: MakeFiles, tmp_path: Path
) -> None:
    files = {name: disc() if "mask." in name or "label" in name else picture(i) for i, name in enumerate(names)}
    dataset = prepared(make_folder(files), tmp_path, mask="files")
    assert reasons(dataset).keys() == unused.keys()
    assert all(text in reasons(dataset)[name] for name, text in unused.items())
    assert [example.source for example in dataset.examples if example.views[0].mask is not None] == [masked]


def test_masks_that_cannot_be_used_are_named(make_folder: MakeFiles, tmp_path: Path) -> None:
    files = {f"{name}.png": picture(index) for index, name in enumerate("abcd")}
    files |= {"a.mask.png": disc(0), "b.mask.png": disc(size=(90, 30)), "masks/c.png": disc(), "masks/lost.png": disc()}
    files |= {"c_mask.png": disc()}
    dataset = prepared(make_folder(files), tmp_path, mask="files")
    said = list(dataset.all_warnings)
    assert any("a.png: its mask a.mask.png: the mask is black everywhere" in line for line in said)
    assert any("b.png: its mask b.mask.png is 90×30, and the image 96×96" in line for line in said)
    assert any("d.png: has no mask file" in line for line in said)
    assert "there is no image of that name" in reasons(dataset)["masks/lost.png"]
    assert sum("a second mask" in reason for reason in reasons(dataset).values()) == 1


def test_a_mask_of_another_scale_is_scaled(make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"a.png": picture(1), "a_mask.png": disc(1, (48, 48))}), tmp_path, mask="files")
    assert dataset.examples[0].views[0].mask is not None and not dataset.examples[0].warnings[1:]


@pytest.mark.parametrize(
    ("own", "regular"),
    [
        ("img/10_TOK dog", "reg/1_dog"),
        ("project/img/10_TOK dog", "project/reg/1_dog"),
        ("10_TOK dog", "regularization_images"),
        ("images", "Reg Images"),
        ("train", "class_images"),
    ],
)
def test_regularisation_images_are_the_preservation_set(
    own: str, regular: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    files = {f"{own}/{index}.png": picture(index) for index in range(2)}
    files |= {f"{regular}/{index}.png": picture(9 + index) for index in range(3)}
    dataset = prepared(make_folder(files), tmp_path)
    concepts = {example.source: example.concept for example in dataset.examples}
    assert concepts == {name: None if name.startswith(f"{regular}/") else "TOK" for name in files}
    assert all("TOK" not in example.caption for example in dataset.examples if example.concept is None)
    assert any(
        "3 images in a folder of regularisation images are used as the preservation set" in line
        for line in dataset.warnings
    )


def test_a_folder_that_a_concept_claims_is_the_concept_s(make_folder: MakeFiles, tmp_path: Path) -> None:
    folder = make_folder({"reg/a.png": picture(1), "cat/b.png": picture(2)})
    concepts = [{"trigger_word": "REG", "folder": "reg"}, {"trigger_word": "CAT", "folder": "cat"}]
    dataset = prepared(folder, tmp_path, concepts=concepts, class_word="")
    assert {example.concept for example in dataset.examples} == {"REG", "CAT"}


def test_a_folder_of_that_name_alone_is_the_concept(make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"reg/a.png": picture(1), "reg/b.png": picture(2)}), tmp_path)
    assert [example.concept for example in dataset.examples] == ["TOK", "TOK"]


@pytest.mark.parametrize("copy", ["the very same", "saved anew", "reduced"])
def test_a_preservation_picture_that_teaches_a_concept_is_left_out(
    copy: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    data = picture(1)
    with Image.open(io.BytesIO(data)) as image:
        copies = {"the very same": data, "saved anew": saved(image, "JPEG"), "reduced": saved(image.resize((80, 80)))}
    prior = tmp_path / "prior"
    prior.mkdir()
    (prior / "x.png").write_bytes(copies[copy])
    (prior / "y.png").write_bytes(picture(2))
    dataset = prepared(make_folder({"a.png": data}), tmp_path, preservation_data=str(prior))
    assert {example.source: example.concept for example in dataset.examples} == {"a.png": "TOK", "y.png": None}
    assert "is also a concept image (a.png)" in reasons(dataset)["x.png"]


def test_a_preservation_set_of_copies_alone_is_reported(make_folder: MakeFiles, tmp_path: Path) -> None:
    prior = tmp_path / "prior"
    prior.mkdir()
    (prior / "x.png").write_bytes(picture(1))
    dataset = prepared(make_folder({"a.png": picture(1)}), tmp_path, preservation_data=str(prior))
    assert [example.concept for example in dataset.examples] == ["TOK"]
    assert any(line.startswith("the preservation set is empty") for line in dataset.warnings)


OUTPUTS = [
    {"out/dataset.jsonl": b"{}", "out/rejected.jsonl": b""},
    {"out/config.yaml": b"a: 1", "out/metrics.jsonl": b"", "out/report.json": b"{}"},
    {"runs/first/config.yaml": b"a: 1", "runs/first/report.json": b"{}"},
    {"out/weights.safetensors": b"x", "out/metrics.jsonl": b""},
]


@pytest.mark.parametrize("marks", OUTPUTS)
def test_an_earlier_output_inside_the_data_is_passed_over(
    marks: Mapping[str, bytes], make_folder: MakeFiles, tmp_path: Path
) -> None:
    folder = next(iter(marks)).rsplit("/", 1)[0]
    inside = {f"{folder}/images/0000_a.png": picture(5), f"{folder}/samples/after/0.png": picture(6)}
    dataset = prepared(make_folder({"a.png": picture(1), **marks, **inside}), tmp_path)
    assert sources(dataset) == ["a.png"]
    assert inside.keys() <= reasons(dataset).keys()
    assert any(line.startswith(f"{folder}: ") and "ignored" in line for line in dataset.warnings)


def test_samples_beside_weights_are_passed_over(make_folder: MakeFiles, tmp_path: Path) -> None:
    files = {"a.png": picture(1), "kohya/dog.safetensors": b"x", "kohya/sample/dog_e000001.png": picture(2)}
    dataset = prepared(make_folder(files), tmp_path)
    assert (
        sources(dataset) == ["a.png"]
        and "the samples of a training" in reasons(dataset)["kohya/sample/dog_e000001.png"]
    )


def test_a_folder_called_samples_is_trained(make_folder: MakeFiles, tmp_path: Path) -> None:
    assert sources(prepared(make_folder({"samples/a.png": picture(1)}), tmp_path)) == ["samples/a.png"]


@pytest.mark.parametrize("size", [(4000, 40), (60, 900), (1200, 100)])
def test_a_panorama_is_named_with_what_is_lost(size: tuple[int, int], make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"wide.png": picture(1, size), "plain.png": picture(2)}), tmp_path)
    lines = [line for line in dataset.all_warnings if "of it is lost" in line]
    assert len(lines) == 1 and lines[0].startswith(f"wide.png: {size[0]}×{size[1]} is cropped to ")
    aspect = max(size) / min(size)
    assert f"{1 - 4 / aspect:.0%}" in lines[0]


@pytest.mark.parametrize("size", [(96, 64), (128, 96), (300, 80)])
def test_an_ordinary_shape_is_not_named(size: tuple[int, int], make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"a.png": picture(1, size)}), tmp_path)
    assert not any("of it is lost" in line for line in dataset.all_warnings)


def grey(low: float, high: float, kind: type) -> bytes:
    values: Any = np.tile(np.linspace(low, high, 96), (96, 1)).astype(kind)
    return saved(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize(
    "data",
    [grey(0, 3, np.float32), grey(-2, 2, np.float32), grey(0, 2000, np.float32), grey(0, 4095, np.uint16),
     grey(0, 1023, np.uint16), grey(0, 1_000_000, np.int32)],
    ids=["light", "signed", "counts", "12 bits", "10 bits", "32 bits"],
)  # fmt: skip
def test_values_of_no_usual_range_are_scaled_and_named(data: bytes, make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"a.tif": data}), tmp_path)
    assert any("a.tif: its values range from" in line and "scaled" in line for line in dataset.all_warnings)
    with Image.open(dataset.folder / dataset.examples[0].views[0].file) as image:
        extrema: Any = image.convert("L").getextrema()
    low, high = extrema
    assert low < 20 and high > 235


@pytest.mark.parametrize("data", [grey(0, 1, np.float32), grey(0, 255, np.float32), grey(0, 65535, np.uint16)])
def test_values_of_a_usual_range_are_left_alone(data: bytes, make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"a.tif": data}), tmp_path)
    assert not any("its values range" in line for line in dataset.all_warnings)


@pytest.mark.parametrize(
    "image", [Image.new("RGB", (96, 96)), Image.new("L", (96, 96), 255), Image.new("I;16", (96, 96), 9)]
)
def test_a_picture_of_one_colour_is_named(image: Image.Image, make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = prepared(make_folder({"a.png": saved(image)}), tmp_path)
    assert any("a.png: has a single colour" in line for line in dataset.all_warnings)


@pytest.mark.parametrize("image", [Image.new("RGBA", (96, 96), (255, 0, 0, 0)), Image.new("LA", (96, 96), (90, 0))])
def test_a_picture_that_is_transparent_throughout_is_refused(
    image: Image.Image, make_folder: MakeFiles, tmp_path: Path
) -> None:
    dataset = prepared(make_folder({"a.png": saved(image), "b.png": picture(1)}), tmp_path)
    assert sources(dataset) == ["b.png"] and "is fully transparent" in reasons(dataset)["a.png"]


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.jxl", b"\xff\x0a"), ("a.jxl", b"\0\0\0\x0cJXL \r\n\x87\n"), ("a.png", b"\xff\x0a"), ("a.JXL", b"\xff\x0a")],
)
def test_jpeg_xl_is_named_with_the_plugin_that_reads_it(
    name: str, start: bytes, make_folder: MakeFiles, tmp_path: Path
) -> None:
    if "JXL" in Image.OPEN:
        pytest.skip("the plugin is installed")
    dataset = prepared(make_folder({name: start + bytes(99), "b.png": picture(1)}), tmp_path)
    assert "pillow-jxl-plugin" in reasons(dataset)[name]


def test_data_of_nothing_but_an_output_is_an_error_that_says_so(make_folder: MakeFiles, tmp_path: Path) -> None:
    files = {"out/dataset.jsonl": b"{}", "out/rejected.jsonl": b"", "out/images/a.png": picture(1)}
    with pytest.raises(DatasetError, match="is in out, a prepared dataset, and ignored"):
        prepared(make_folder(files), tmp_path)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("dataset.jsonl", "rejected.jsonl", "images/a.png", "previews/a.png"), "a prepared dataset"),
        (("features.json", "00000.json", "00000.safetensors", "previews/00000/a.png"), "shards of features"),
    ],
)
def test_what_is_prepared_is_not_read_as_pictures(
    names: Sequence[str], what: str, make_folder: MakeFiles, make_zip: MakeFiles, tmp_path: Path
) -> None:
    """In an archive or beside other data, its previews would be trained as images, and its captions would be lost."""
    files = {name: picture(1) if name.endswith(".png") else b"{}" for name in names}
    folder = make_folder(files)
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.png").write_bytes(picture(2))
    for sources in ([folder, other], [make_zip(files)]):
        with pytest.raises(DatasetError, match=f"belongs to {what}, which cannot be prepared again"):
            prepare(sources, build_settings(DataConfig, {"captioner": "none"}), tmp_path / "out")


@pytest.mark.parametrize("high", [1, 3])
def test_values_that_are_not_finite_are_counted(high: float, make_folder: MakeFiles, tmp_path: Path) -> None:
    values: Any = np.tile(np.linspace(0, high, 96), (96, 1)).astype(np.float32)
    values[0, :2] = np.nan, np.inf
    dataset = prepared(make_folder({"a.tif": saved(Image.fromarray(values), "TIFF")}), tmp_path)
    said = [line for line in dataset.all_warnings if "2 of its values are not finite, and are set to 0" in line]
    assert len(said) == 1 and said[0].startswith("a.tif: ")
    assert ("they are scaled" in said[0]) == (high == 3)
