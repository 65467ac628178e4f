"""Tests of datasets on this disk, in the formats of the library `datasets`: their rows become images with captions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from preprocess.command_line import main
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from preprocess.sources.weights import share_factors, shares
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.local_site import Site
from tests.preprocess.uploads.ugly_uploads.making import picture

OPTIONS = {"resolution": 64, "captioner": "none", "captions_from_file_names": False}
PICTURES = [picture(seed=seed) for seed in range(4)]
TEXTS = ["a red robot on sand", "a green robot on grass", "a blue robot in water", "a white robot in snow"]


def prepared(data: Sequence[str | Path], output: Path, **options: object) -> PreparedDataset:
    return prepare(data, build_settings(DataConfig, OPTIONS | options), output)


def captions(dataset: PreparedDataset) -> dict[str, str]:
    return {example.source: example.caption for example in dataset.examples}


def dataset_of(columns: Mapping[str, Sequence[Any]], image: str = "image") -> datasets.Dataset:
    encoded = [{"bytes": data, "path": None} for data in columns[image]]
    return datasets.Dataset.from_dict({**columns, image: encoded}).cast_column(image, datasets.Image())


def with_triggers(texts: Sequence[str]) -> list[str]:
    return [text.replace("robot", "TOK robot") for text in texts]


@pytest.fixture
def rows() -> datasets.Dataset:
    return dataset_of({"image": PICTURES, "text": TEXTS, "score": [1.0, 2.0, 3.0, 4.0]})


@pytest.mark.parametrize("kind", ["saved", "dictionary", "parquet", "folder of parquet", "arrow"])
def test_every_form_that_the_library_writes_is_read(kind: str, rows: datasets.Dataset, tmp_path: Path) -> None:
    source = tmp_path / "data"
    if kind == "saved":
        rows.save_to_disk(source)
    elif kind == "dictionary":
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(source)
    elif kind == "folder of parquet":
        source.mkdir()
        for index in range(2):
            rows.select([2 * index, 2 * index + 1]).to_parquet(source / f"train-{index}.parquet")
    elif kind == "parquet":
        source = tmp_path / "data.parquet"
        rows.to_parquet(source)
    else:
        rows.save_to_disk(tmp_path / "saved")
        source = tmp_path / "data.arrow"
        (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(source)
    dataset = prepared([source], tmp_path / "out", class_word="robot")
    assert list(captions(dataset).values()) == with_triggers(TEXTS)
    assert list(captions(dataset)) == [f"{index:08d}" for index in range(4)]


def test_a_downloaded_repository_is_read(rows: datasets.Dataset, tmp_path: Path) -> None:
    source = tmp_path / "robots"  # as `hf download --local-dir` leaves it
    cache = source / ".cache" / "huggingface" / "download" / "data"
    for folder in (source / "data", cache):
        folder.mkdir(parents=True)
    rows.to_parquet(source / "data" / "train-00000-of-00001.parquet")
    for path in (cache / "train-00000-of-00001.parquet.metadata", source / ".gitattributes", source / "README.md"):
        path.write_text("1")
    assert len(prepared([source], tmp_path / "out").examples) == 4


@pytest.mark.parametrize("saved", [False, True])
def test_other_splits_of_a_folder_are_named_and_not_trained(
    saved: bool, rows: datasets.Dataset, tmp_path: Path
) -> None:
    source = tmp_path / "robots"
    splits = {"train": rows.select([0, 1]), "validation": rows.select([2]), "test": rows.select([3])}
    files = ["data/train-00000-of-00001.parquet", "data/val.parquet", "test/0.parquet"]
    if saved:
        files = list(splits)
        datasets.DatasetDict(splits).save_to_disk(source)
    else:
        for name, split in zip(files, splits.values(), strict=True):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            split.to_parquet(source / name)
    dataset = prepared([source], tmp_path / "out", class_word="robot")
    assert list(captions(dataset).values()) == with_triggers(TEXTS[:2])
    assert sorted(each.reason for each in dataset.rejected) == sorted(
        f"robots/{name}: is the split {split}, and train is trained. Give it as data, too, to train it"
        for name, split in zip(files[1:], ["validation", "test"], strict=True)
    )
    alone = prepared([source / files[2]], tmp_path / "alone", class_word="robot")  # the remedy
    assert list(captions(alone).values()) == with_triggers(TEXTS[3:])


def test_a_folder_without_a_training_split(rows: datasets.Dataset, tmp_path: Path) -> None:
    for name in ("dev-0.parquet", "dev-1.parquet"):
        rows.select([int(name[4])]).to_parquet(tmp_path / name)
    assert len(prepared([tmp_path], tmp_path.parent / "out").examples) == 2
    rows.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DatasetError, match="has several splits, and none is named train. It has: validation, test"):
        prepared([tmp_path], tmp_path.parent / "out2")


def test_a_folder_of_parquet_and_arrow_is_not_read_in_part(rows: datasets.Dataset, tmp_path: Path) -> None:
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "both").mkdir()
    rows.to_parquet(tmp_path / "both" / "a.parquet")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(tmp_path / "both" / "b.arrow")
    with pytest.raises(DatasetError, match=r"^both: contains both parquet and arrow files"):
        prepared([tmp_path / "both"], tmp_path / "out")


def test_filters_and_several_captions_hold_for_rows_as_for_files(tmp_path: Path) -> None:
    several = [[text, f"{text} again"] for text in TEXTS]
    dataset_of({"image": PICTURES, "prompts": several, "score": [1, 2, 3, 4]}).to_parquet(tmp_path / "a.parquet")
    dataset = prepared(
        [tmp_path / "a.parquet"], tmp_path / "out", caption_column="prompts", filters="score > 2", class_word="robot"
    )
    assert [example.captions for example in dataset.examples] == [tuple(with_triggers(texts)) for texts in several[2:]]
    assert sum("score > 2" in item.reason for item in dataset.rejected) == 2


def test_bytes_without_declared_features_and_two_picture_columns(tmp_path: Path) -> None:
    table = pyarrow.table({"jpg": PICTURES, "caption": TEXTS})
    parquet.write_table(table, tmp_path / "plain.parquet")
    assert len(prepared([tmp_path / "plain.parquet"], tmp_path / "1").examples) == 4
    two = dataset_of({"image": PICTURES, "text": TEXTS}).add_column("mask", PICTURES)
    two.cast_column("mask", datasets.Image()).to_parquet(tmp_path / "two.parquet")
    with pytest.raises(
        DatasetError, match=r"two.parquet: several columns contain images \(image, mask\).*image_column"
    ):
        prepared([tmp_path / "two.parquet"], tmp_path / "2")
    assert len(prepared([tmp_path / "two.parquet"], tmp_path / "3", image_column="mask").examples) == 4


def test_columns_that_do_not_exist_are_named_with_those_that_do(rows: datasets.Dataset, tmp_path: Path) -> None:
    rows.to_parquet(tmp_path / "a.parquet")
    wrong = {"image_column": "picture", "caption_column": "tags"}
    for setting, value in wrong.items():
        with pytest.raises(
            DatasetError, match=rf"a.parquet: has no column '{value}' \({setting}\). Its columns: image, text, score"
        ):
            prepared([tmp_path / "a.parquet"], tmp_path / setting, **{setting: value})


@pytest.mark.parametrize(
    ("captions_of", "message"),
    [
        ({"text": [5, 6]}, "row 0, text: 5 is not a caption"),
        ({"text": ["a", "b"], "prompt": ["a", "c"]}, "row 1: the columns text, prompt contain different captions"),
        ({"title": ["a big dog", "a"]}, "row 0: needs a column for the text .* Rename the column, or set caption_c"),
    ],
)
def test_captions_that_cannot_be_read_are_named_by_dataset_and_row(
    captions_of: Mapping[str, Sequence[Any]], message: str, tmp_path: Path
) -> None:
    dataset_of({"image": PICTURES[:2], **captions_of}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=f"^x.parquet, {message}"):
        prepared([tmp_path / "x.parquet"], tmp_path / "out")


@pytest.mark.parametrize("column", ["id", "label"])
def test_the_file_column_of_other_tables_does_not_concern_rows(column: str, tmp_path: Path) -> None:
    source = tmp_path / "x.parquet"
    dataset_of({"image": PICTURES[:2], "text": TEXTS[:2], "label": ["r", "g"]}).to_parquet(source)
    dataset = prepared([source], tmp_path / "out", class_word="robot", file_column=column)
    assert list(captions(dataset).values()) == with_triggers(TEXTS[:2])


def test_a_dataset_without_images_or_rows_is_an_error(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"question": ["why?"], "answer": ["so"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(DatasetError, match=r"none of its columns \(question, answer\)"):
        prepared([tmp_path / "text.parquet"], tmp_path / "1")
    dataset_of({"image": PICTURES, "text": TEXTS}).select([]).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DatasetError, match="empty.parquet: has no rows, so no images"):
        prepared([tmp_path / "empty.parquet"], tmp_path / "2")


def test_a_cut_table_is_named_with_its_remedy(rows: datasets.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    rows.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"^cut.parquet[^\n]*file is complete$"):
        prepared([path], tmp_path / "out")


def test_rows_without_a_picture_are_refused_by_number(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [*PICTURES[:2], None, b"no picture"], "text": TEXTS})
    parquet.write_table(table, tmp_path / "a.parquet")
    dataset = prepared([tmp_path / "a.parquet"], tmp_path / "out")
    reasons = {item.source: item.reason for item in dataset.rejected}
    assert reasons["row 2"] == "a.parquet, row 2: its column image is empty"
    assert "00000003" in reasons and len(dataset.examples) == 2


def test_limits_of_archives_hold_for_rows(rows: datasets.Dataset, tmp_path: Path) -> None:
    rows.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=r"more than 3 rows. Select some of them, such as :train\[:3\]"):
        prepared([tmp_path / "a.parquet"], tmp_path / "1", max_archive_files=3)
    with pytest.raises(DatasetError, match="increase max_archive_bytes"):
        prepared([tmp_path / "a.parquet"], tmp_path / "2", max_archive_bytes=len(PICTURES[0]) + 10)
    with pytest.raises(DatasetError, match="no usable image.*max_file_bytes"):
        prepared([tmp_path / "a.parquet"], tmp_path / "3", max_file_bytes=10)


def test_a_table_reads_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    (inside / "own.png").write_bytes(PICTURES[1])
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["own.png", "../secret.png", str(tmp_path / "secret.png"), "link.png"]
    parquet.write_table(pyarrow.table({"image": names, "text": TEXTS}), inside / "list.parquet")
    dataset = prepared([inside / "list.parquet"], tmp_path / "out")
    assert [example.source for example in dataset.examples] == ["00000000.png"]
    assert [item.source for item in dataset.rejected] == ["row 1", "row 2", "row 3"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_lists_of_urls_are_fetched_and_dead_links_are_refused(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCH_ALLOW_HTTP", "1")
    monkeypatch.setenv("FETCH_ALLOW_PRIVATE_ADDRESSES", "1")
    site = Site()
    for index in range(3):
        site.serve(f"/{index}.png", PICTURES[index])
    urls = [f"{site.url}/{index}.png" for index in range(4)]
    table = datasets.Dataset.from_dict({"URL": urls, "TEXT": TEXTS, "similarity": [0.3] * 4})
    path = tmp_path / f"list{suffix}"
    table.to_csv(path) if suffix == ".csv" else table.to_parquet(path)
    dataset = prepared([path], tmp_path / "out", caption_column="TEXT", class_word="robot")
    assert list(captions(dataset).values()) == with_triggers(TEXTS[:3])
    (dead,) = dataset.rejected
    assert dead.source == "row 3" and "3.png: the server answered 404" in dead.reason


def test_urls_of_private_addresses_stay_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCH_ALLOW_HTTP", "1")
    site = Site()
    site.serve("/0.png", PICTURES[0])
    datasets.Dataset.from_dict({"url": [f"{site.url}/0.png"]}).to_csv(tmp_path / "list.csv")
    with pytest.raises(DatasetError, match="not an address of the public internet"):
        prepared([tmp_path / "list.csv"], tmp_path / "out")
    assert not site.seen


def test_metadata_parquet_beside_images_holds_captions_of_any_type(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.png").write_bytes(PICTURES[index])
    table = {"file_name": ["0.png", "1.png"], "text": [TEXTS[:2], [TEXTS[2]]]}
    datasets.Dataset.from_dict(table).to_parquet(folder / "metadata.parquet")
    dataset = prepared([folder], tmp_path / "out", class_word="robot")
    assert [example.captions for example in dataset.examples] == [
        tuple(with_triggers(TEXTS[:2])), (with_triggers(TEXTS)[2],),
    ]  # fmt: skip
    datasets.Dataset.from_dict({"file_name": ["0.png"], "text": [7]}).to_parquet(folder / "metadata.parquet")
    with pytest.raises(DatasetError, match="metadata.parquet, row 1, text: 7 is not a caption"):
        prepared([folder], tmp_path / "2")


def test_weights_are_shares_of_what_is_seen(tmp_path: Path) -> None:
    dataset_of({"image": PICTURES[:3], "text": TEXTS[:3]}).to_parquet(tmp_path / "many.parquet")
    dataset_of({"image": PICTURES[3:], "text": TEXTS[3:]}).to_parquet(tmp_path / "few.parquet")
    many, few = str(tmp_path / "many.parquet"), str(tmp_path / "few.parquet")
    dataset = prepared([], tmp_path / "out", sources=[{"source": many, "weight": 1}, {"source": few, "weight": 3}])
    seen = {name.split("/")[0]: 0 for name in captions(dataset)}
    for example in dataset.examples:
        seen[example.source.split("/")[0]] += example.repeats
    assert seen == {"many.parquet": 3, "few.parquet": 9}
    assert "few.parquet: 75.0% of the training images (repeats × 9)" in dataset.warnings


def test_shares_come_as_near_as_whole_repeats_can() -> None:
    factors = share_factors({0: 2000, 1: 1400}, [1.0, 1.0])
    assert factors == {0: 7, 1: 10} and shares({0: 2000, 1: 1400}, factors) == {0: 0.5, 1: 0.5}
    assert share_factors({0: 10, 1: 10, 2: 10}, [1.0, 2.0, 3.0]) == {0: 1, 1: 2, 2: 3}


def test_the_command_names_sources_alone(rows: datasets.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows.to_parquet(tmp_path / "a.parquet")
    options = ["--output", str(tmp_path / "out"), "--resolution", "64", "--captioner", "none"]
    assert main(["--sources", str(tmp_path / "a.parquet"), *options]) == 0
    lines = (tmp_path / "out" / "dataset.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and "TOK" in json.loads(lines[0])["caption"]
    assert main(["--output", str(tmp_path / "2")]) == 2
    assert "data: is missing" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_file_that_installs_it(
    rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"a.parquet: needs the package datasets.*-r requirements-data.txt"):
        prepared([tmp_path / "a.parquet"], tmp_path / "out")
