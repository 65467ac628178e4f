"""Tests of training again from a prepared dataset whose files were edited."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from families.family import ModelFamily
from preprocess.dataset import DATASET_FILE, PreparedDataset, is_prepared
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from settings.record import build_settings
from settings.training import build_config
from tests.preprocess.uploads.ugly_uploads.making import picture
from trainer.resolution import resolve

OPTIONS = {"resolution": 64, "captioner": "none", "mask": "alpha", "horizontal_flip": True, "preservation_weight": 0.5}


def alpha_picture(seed: int) -> bytes:
    """An image of which only the left half is opaque."""
    image = Image.open(io.BytesIO(picture((160, 160), seed=seed))).convert("RGBA")
    alpha = Image.new("L", image.size)
    alpha.paste(255, (0, 0, 80, 160))
    image.putalpha(alpha)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    upload, prior = tmp_path_factory.mktemp("upload"), tmp_path_factory.mktemp("prior")
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        (upload / f"{name}.png").write_bytes(alpha_picture(seed))
        (upload / f"{name}.txt").write_text(f"a TOK {name}")
    (upload / "notes.md").write_text("no picture")
    (prior / "d.png").write_bytes(alpha_picture(4))
    (prior / "d.txt").write_text("a dog")
    config = build_settings(DataConfig, OPTIONS | {"preservation_data": str(prior)})
    return prepare([upload], config, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def original(prepared_once: PreparedDataset, tmp_path: Path) -> PreparedDataset:
    """A copy of the dataset: three images of TOK and a preservation image, all with mirror images and masks."""
    folder = tmp_path / "dataset"
    shutil.copytree(prepared_once.folder, folder)
    return PreparedDataset.read(folder)


def opened(folder: Path, base: BaseRequirements | None = None, /, **options: object) -> PreparedDataset:
    return reopen(folder, build_settings(DataConfig, options), base or BaseRequirements())


def rewrite(folder: Path, edit: Callable[[list[str]], list[str]]) -> None:
    """Replace the lines of dataset.jsonl."""
    path = folder / DATASET_FILE
    path.write_text("\n".join(edit(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")


def edit_line(folder: Path, number: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record in one line, counted from 1."""

    def edit(lines: list[str]) -> list[str]:
        record = json.loads(lines[number - 1])
        change(record)
        return [*lines[: number - 1], json.dumps(record), *lines[number:]]

    rewrite(folder, edit)


def test_untouched_it_is_what_was_prepared(original: PreparedDataset, prepared_once: PreparedDataset) -> None:
    again = opened(original.folder)
    assert is_prepared(original.folder)
    assert again.examples == original.examples == prepared_once.examples
    assert again.rejected == prepared_once.rejected and [item.source for item in again.rejected] == ["notes.md"]
    assert again.warnings == prepared_once.warnings
    assert again.digest() == prepared_once.digest()
    (again.folder / again.examples[-1].views[-1].file).unlink()
    assert again.digest() == prepared_once.digest()  # the files are read only once
    assert [len(example.views) for example in again.examples] == [2, 2, 2, 2]
    assert all(view.mask for example in again.examples for view in example.views)


def test_a_caption_that_was_edited_comes_out(original: PreparedDataset) -> None:
    edit_line(original.folder, 2, lambda record: record.update(caption="a red TOK – café", repeats=7, weight=0.5))
    again = opened(original.folder)
    assert [example.caption for example in again.examples] == ["a TOK a", "a red TOK – café", "a TOK c", "a dog"]
    assert (again.examples[1].repeats, again.examples[1].weight) == (7, 0.5)
    assert again.digest() != original.digest()


def test_a_line_that_was_taken_out_is_gone(original: PreparedDataset) -> None:
    rewrite(original.folder, lambda lines: [lines[0], *lines[2:]])
    assert [example.source for example in opened(original.folder).examples] == ["a.png", "c.png", "d.png"]


def test_without_a_line_nothing_is_left(original: PreparedDataset) -> None:
    (original.folder / DATASET_FILE).write_text("\n")
    with pytest.raises(DatasetError, match=r"dataset\.jsonl: contains no lines\. Prepare the images again"):
        opened(original.folder)


def test_without_the_concept_s_lines_it_is_missing(original: PreparedDataset) -> None:
    rewrite(original.folder, lambda lines: lines[3:])
    with pytest.raises(DatasetError, match="concept TOK: no images"):
        opened(original.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": "a red thing"}, "its caption lacks the trigger word TOK: 'a red thing'"),
        ({"caption": "Tokyo"}, "its caption lacks the trigger word TOK"),
        ({"concept": "ANNA"}, "its trigger word is ANNA, and the configuration has TOK; set trigger_word to ANNA"),
        ({"repeats": 0}, "repeats is 0"),
        ({"repeats": -2}, "repeats is -2"),
        ({"repeats": "often"}, "repeats: Input should be a valid integer"),
        ({"repeats": 1.5}, "repeats: Input should be a valid integer"),
        ({"weight": 0}, "weight is 0"),
        ({"weight": -0.5}, "weight is -0.5"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": float("inf")}, "weight is inf"),
        ({"weight": None}, "weight: Input should be a valid number"),
        ({"views": []}, "has no views"),
    ],
)
def test_an_edit_that_cannot_be_meant_names_its_line(
    change: dict[str, object], message: str, original: PreparedDataset
) -> None:
    edit_line(original.folder, 2, lambda record: record.update(change))
    with pytest.raises(DatasetError, match=rf"dataset\.jsonl, line 2.*: {message}"):
        opened(original.folder)


def test_a_field_that_was_taken_out_is_named(original: PreparedDataset) -> None:
    edit_line(original.folder, 3, lambda record: record.pop("caption"))
    with pytest.raises(DatasetError, match=r"dataset\.jsonl, line 3: caption: Field required\. Undo the edit"):
        opened(original.folder)


def test_a_lost_trigger_names_the_user_s_file_too(original: PreparedDataset) -> None:
    edit_line(original.folder, 3, lambda record: record.update(caption="a red thing"))
    with pytest.raises(DatasetError, match=r"line 3 \(c\.png\): its caption lacks"):
        opened(original.folder)


def test_a_preservation_image_needs_no_trigger(original: PreparedDataset) -> None:
    edit_line(original.folder, 4, lambda record: record.update(caption=""))
    assert opened(original.folder).examples[3].caption == ""


@pytest.mark.parametrize("line", ["{oops", '{"source": "a.png"', "a TOK", '"text"', "[]"])
def test_what_is_no_json_object_names_its_line(line: str, original: PreparedDataset) -> None:
    rewrite(original.folder, lambda lines: [*lines[:2], line, *lines[3:]])
    with pytest.raises(DatasetError, match=r"dataset\.jsonl, line 3: .*\. Undo the edit"):
        opened(original.folder)


@pytest.mark.parametrize("blank", ["", "   "])
def test_lines_are_counted_as_editors_count_them(blank: str, original: PreparedDataset) -> None:
    edit_line(original.folder, 3, lambda record: record.update(caption="a red thing"))
    rewrite(original.folder, lambda lines: [blank, blank, *lines[1:]])
    with pytest.raises(DatasetError, match=r"line 4 \(c\.png\): its caption lacks"):
        opened(original.folder)
    edit_line(original.folder, 4, lambda record: record.update(caption="a TOK", repeats=0))
    with pytest.raises(DatasetError, match=r"dataset\.jsonl, line 4: repeats is 0"):
        opened(original.folder)


@pytest.mark.parametrize("kind", ["file", "mask"])
def test_a_missing_picture_is_named(kind: str, original: PreparedDataset) -> None:
    name = getattr(original.examples[1].views[1], kind)
    (original.folder / name).unlink()
    with pytest.raises(DatasetError, match=rf"dataset\.jsonl, line 2: {name} is missing\. Remove the line, or"):
        opened(original.folder)


@pytest.mark.parametrize("name", ["../secret.png", "images/../../secret.png", "{tmp}/secret.png", "images/link.png"])
def test_a_picture_outside_the_folder_is_refused(name: str, original: PreparedDataset, tmp_path: Path) -> None:
    shutil.copy(original.folder / original.examples[0].views[0].file, tmp_path / "secret.png")
    (original.folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    edit_line(original.folder, 1, lambda record: record["views"][0].update(file=name.format(tmp=tmp_path)))
    with pytest.raises(DatasetError, match=r"dataset\.jsonl, line 1: .*\.png is outside the dataset folder"):
        opened(original.folder)


@pytest.mark.parametrize("kind", ["file", "mask"])
def test_a_picture_that_has_another_size_now_is_an_error(kind: str, original: PreparedDataset) -> None:
    name = getattr(original.examples[0].views[1], kind)
    with Image.open(original.folder / name) as image:
        smaller = image.resize((40, 40))
    smaller.save(original.folder / name)
    with pytest.raises(DatasetError, match=rf"line 1: {name} is 40×40, and was cropped to 64×64\. "):
        opened(original.folder)


def test_a_picture_that_is_none_any_more_is_an_error(original: PreparedDataset) -> None:
    name = original.examples[2].views[0].file
    (original.folder / name).write_text("hello")
    with pytest.raises(DatasetError, match=rf"line 3: {name} cannot be read as an image"):
        opened(original.folder)


def test_a_retouched_picture_is_trained_as_it_is_now(original: PreparedDataset) -> None:
    before = original.digest()
    Image.new("RGB", original.examples[0].bucket, "red").save(original.folder / original.examples[0].views[0].file)
    assert opened(original.folder).digest() != before


@pytest.mark.parametrize(
    ("encoding", "ending"), [("utf-8-sig", "\n"), ("utf-8", "\r\n")], ids=["byte order mark", "Windows' line ends"]
)
def test_what_editors_of_other_systems_save_is_read(encoding: str, ending: str, original: PreparedDataset) -> None:
    edit_line(original.folder, 1, lambda record: record.update(caption="a TOK café"))
    path = original.folder / DATASET_FILE
    path.write_bytes(path.read_text(encoding="utf-8").replace("\n", ending).encode(encoding))
    assert opened(original.folder).examples[0].caption == "a TOK café"


def test_an_editor_that_saved_in_another_encoding_is_named(original: PreparedDataset) -> None:
    path = original.folder / DATASET_FILE
    path.write_bytes(path.read_text(encoding="utf-8").replace("a TOK b", "a TOK café").encode("cp1252"))
    with pytest.raises(DatasetError, match=r"dataset\.jsonl: is not UTF-8 .*Save it as UTF-8"):
        opened(original.folder)


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x1e"], ids=ascii)
def test_a_file_name_with_a_separator_of_lines_stays_on_its_line(sign: str, tmp_path: Path) -> None:
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / f"a{sign}b.png").write_bytes(picture())
    config = build_settings(DataConfig, {"resolution": 64, "captioner": "none"})
    dataset = prepare([tmp_path / "upload"], config, tmp_path / "dataset")
    assert opened(dataset.folder).examples == dataset.examples
    assert dataset.examples[0].source == f"a{sign}b.png"


def test_settings_that_come_too_late_are_named(original: PreparedDataset) -> None:
    late = {"resolution": 96, "caption_prefix": "photo", "horizontal_flip": True, "preservation_data": "prior.zip"}
    heeded = {"trigger_word": "TOK", "caption_dropout": 0.2, "shuffle_tags": True, "mask": "alpha", "seed": 3}
    said = [line for line in opened(original.folder, **late, **heeded).warnings if "has no effect" in line]
    assert [line.split()[0] for line in said] == sorted(late)
    assert all("is already prepared. Prepare the images again to change it" in line for line in said)


def test_a_mask_that_comes_too_late_is_named(original: PreparedDataset) -> None:
    """`mask: none` does not remove masks, and another value does not make any."""

    def said(**options: object) -> list[str]:
        return [line.split()[0] for line in opened(original.folder, **options).warnings if "has no effect" in line]

    assert said(mask="none") == ["mask"] and said(mask="auto") == said() == []
    for number in range(1, 5):
        edit_line(original.folder, number, lambda record: [view.update(mask=None) for view in record["views"]])
    assert said(mask="alpha") == ["mask"] and said(mask="auto") == said(mask="none") == []


def test_the_base_s_own_resolution_is_no_setting_that_came_too_late(
    original: PreparedDataset, base: ModelFamily
) -> None:
    config = resolve(build_config({"base_model": "mini-sdxl"}), base)
    assert config.resolution == base.native_resolution
    assert not any("has no effect" in line for line in reopen(original.folder, config, BaseRequirements()).warnings)
    late = resolve(build_config({"base_model": "mini-sdxl", "resolution": 64}), base)
    assert any(
        "resolution has no effect" in line for line in reopen(original.folder, late, BaseRequirements()).warnings
    )


@pytest.mark.parametrize(("multiple", "fits"), [(8, True), (64, True), (48, False), (128, False)])
def test_sizes_must_suit_the_base(multiple: int, fits: bool, original: PreparedDataset) -> None:
    base = BaseRequirements(multiple)
    if fits:
        assert opened(original.folder, base).examples == original.examples
        return
    with pytest.raises(
        DatasetError, match=rf"line 1 \(a\.png\): 64×64 is not a multiple of {multiple}.* bucket_step: "
    ):
        opened(original.folder, base)


def test_another_trigger_word_is_an_error_with_a_remedy(original: PreparedDataset) -> None:
    with pytest.raises(
        DatasetError, match=r"line 1 \(a\.png\): its trigger word is TOK, and the configuration has ANNA; set"
    ):
        opened(original.folder, trigger_word="ANNA")


def test_a_listed_concept_without_lines_is_an_error(original: PreparedDataset) -> None:
    with pytest.raises(DatasetError, match="concept ANNA: no images"):
        opened(original.folder, concepts=[{"trigger_word": "TOK"}, {"trigger_word": "ANNA"}])


def test_captions_that_were_edited_too_long_are_named(original: PreparedDataset) -> None:
    edit_line(original.folder, 2, lambda record: record.update(caption="TOK " + "very " * 90 + "red"))
    base = BaseRequirements(8, lambda caption: len(caption.split()) + 2)
    added = set(opened(original.folder, base).warnings) - set(original.warnings)
    assert added == {"b.png: its caption has 94 tokens, and the text encoders read 77; shorten it"}


def test_a_folder_of_pictures_is_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert not is_prepared(tmp_path)
    (tmp_path / DATASET_FILE).write_text("{}\n")
    assert is_prepared(tmp_path)
