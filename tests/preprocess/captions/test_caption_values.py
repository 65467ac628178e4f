"""Tests of the values in caption files: commas, lists, empty values, several lines, and errors with file and row."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from preprocess.dataset import Example, PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import BaseRequirements, prepare
from preprocess.reopen import reopen
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.conftest import png

MakeFiles = Callable[[Mapping[str, bytes]], Path]
OPTIONS = {"resolution": 64, "captioner": "none", "aspect_ratio_bucketing": False}


def trained(make_folder: MakeFiles, tmp_path: Path, files: Mapping[str, bytes], **options: object) -> PreparedDataset:
    folder = make_folder({"p0.png": png(), "p1.png": png(colour=(0, 90, 0)), **files})
    return prepare([folder], build_settings(DataConfig, OPTIONS | options), tmp_path / "dataset")


def captions(dataset: PreparedDataset) -> list[tuple[str, ...]]:
    return [example.captions for example in dataset.examples]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("file_name,text\np0.png,a TOK, red, standing on sand\np1.png,TOK", "a TOK, red, standing on sand"),
        ("image;caption\np0.png;a TOK; red\np1.png;TOK", "a TOK; red"),
        ('file,rating,prompt\np0.png,5,a TOK,red\np1.png,4,"TOK, blue"', "a TOK, red"),
        ("file_name,text,,\np0.png,a TOK, red,\np1.png,TOK,,", "a TOK, red"),
        ("p0.png;a TOK, red\np1.png;TOK", "a TOK, red"),
        ("p0.png\ta TOK, red; new\np1.png\tTOK", "a TOK, red; new"),
        ("p0.png,a TOK, red\np1.png,TOK, blue, old", "a TOK, red"),
    ],
)
def test_unquoted_commas_belong_to_a_last_caption(
    table: str, expected: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    assert captions(trained(make_folder, tmp_path, {"metadata.csv": table.encode()}))[0] == (expected,)


@pytest.mark.parametrize("name", ["metadata.tsv", "captions.tsv", "caption.TSV"])
@pytest.mark.parametrize("header", ["file_name\ttext\n", ""])
def test_tabs_have_files_of_their_own(name: str, header: str, make_folder: MakeFiles, tmp_path: Path) -> None:
    """Commas and semicolons do not separate columns in these files."""
    table = f"{header}p0.png\ta TOK, red; new\np1.png\tTOK, blue".encode()
    assert captions(trained(make_folder, tmp_path, {name: table})) == [("a TOK, red; new",), ("TOK, blue",)]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("images.csv", "metadata.csv"),
        ("x.TSV", "metadata.tsv"),
        ("a.jsonl", "metadata.jsonl"),
        ("0.parquet", "metadata.parquet"),
    ],
)
def test_a_table_of_another_name_says_which_is_read(
    name: str, read: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    dataset = trained(make_folder, tmp_path, {name: b"file_name,text"})
    assert [(each.source, read in each.reason) for each in dataset.rejected] == [(name, True)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("file_name,text,rating\np0.png,TOK,1\np1.png,a TOK, red,5", "metadata.csv, line 3: 4 cells for 3 columns"),
        ('text,file_name\n"TOK\nred",p0.png\na TOK, blue,p1.png', "metadata.csv, line 4: 3 cells for 2 columns"),
        ("caption,file,width\n\nTOK, red,p0.png,5", "metadata.csv, line 3: 4 cells for 3 columns"),
        (
            "img,words,rating\np0.png,a TOK,5\np1.png,TOK,4",
            "none of its columns (img, words, rating) is known as the caption",
        ),
        ("bild;beschreibung\np0.png;a TOK\np1.png;TOK", "file_column and caption_column"),
        ("url,label_text\np0.jpeg,a TOK\np1.JPG,TOK", "file_column and caption_column"),
        ("p0.png,a TOK,5\np1.png,TOK,4", "its last column contains numbers"),
        ("image,beschreibung,note\np0.png,a TOK on sand,5\np1.png,TOK,4", "found image, beschreibung, note"),
        ("bild,text\np0.png,a TOK", "needs a column for the file"),
        ("file_name,text,caption\np0.png,a TOK,another TOK", "the columns text, caption contain different captions"),
        ("file_name,prompt,description\np0.png,a TOK,a red TOK", "caption_column: prompt"),
    ],
)
def test_a_table_of_which_the_caption_is_not_sure_is_an_error(
    table: str, says: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as error:
        trained(make_folder, tmp_path, {"metadata.csv": table.encode()})
    assert says in str(error.value)


def test_a_setting_names_the_column_that_is_meant(make_folder: MakeFiles, tmp_path: Path) -> None:
    table = b"file_name,text,caption,note\np0.png,TOK 1,TOK 2,x\np1.png,TOK 3,TOK 4,y"
    dataset = trained(make_folder, tmp_path, {"metadata.csv": table}, caption_column="caption")
    assert captions(dataset) == [("TOK 2",), ("TOK 4",)]


SEVERAL = [("TOK on sand", "a toy TOK")]
VALUES = [
    (["TOK on sand", "a toy TOK"], SEVERAL),
    (["TOK on sand", None, "", "a toy TOK", "TOK on sand"], SEVERAL),
    ("TOK  on\nsand", [("TOK on sand",)]),
    (["TOK"], [("TOK",)]),
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "name", ["metadata.jsonl", "captions.json", "captions.json of records", "p0.json", "p0.json alone"]
)
def test_a_list_of_texts_is_several_captions(
    name: str, value: tuple[object, object], make_folder: MakeFiles, tmp_path: Path
) -> None:
    written, expected = value
    contents: dict[str, object] = {
        "metadata.jsonl": {"file_name": "p0.png", "text": written},
        "captions.json": {"p0.png": written},
        "captions.json of records": {"p0.png": {"caption": written}},
        "p0.json": {"caption": written, "width": 3},
        "p0.json alone": written,
    }
    dataset = trained(make_folder, tmp_path, {name.split()[0]: json.dumps(contents[name]).encode()})
    assert captions(dataset)[:1] == expected


@pytest.mark.parametrize(
    "record",
    [
        {"text": None, "caption": "a TOK"},
        {"text": "", "prompt": "a TOK"},
        {"caption": [], "description": "a TOK"},
        {"text": ["", None], "captions": ["a TOK"]},
        {"text": "a TOK", "caption": "a  TOK"},
    ],
)
def test_an_empty_column_gives_way_to_the_next(
    record: dict[str, object], make_folder: MakeFiles, tmp_path: Path
) -> None:
    line = json.dumps({"file_name": "p0.png", "width": 96, **record})
    assert captions(trained(make_folder, tmp_path, {"metadata.jsonl": line.encode()}))[0] == ("a TOK",)


@pytest.mark.parametrize("value", [None, "", [], [None, " "]])
def test_an_empty_caption_goes_to_the_captioner(value: object, make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = trained(make_folder, tmp_path, {"captions.json": json.dumps({"p0.png": value}).encode()})
    assert dataset.examples[0].caption_source == "template"
    assert any("p0.png: its caption in captions.json is empty" in line for line in dataset.all_warnings)


@pytest.mark.parametrize("value", [7, 1.5, True, {"text": "a TOK"}, ["TOK", 3], [["TOK"]]])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("metadata.jsonl", "metadata.jsonl, line 1, text"),
        ("captions.json", "captions.json, p0.png, caption"),
        ("p0.json", "p0.json, caption"),
    ],
)
def test_any_other_value_is_an_error_that_names_file_and_row(
    name: str, where: str, value: object, make_folder: MakeFiles, tmp_path: Path
) -> None:
    contents: dict[str, object] = {
        "metadata.jsonl": {"file_name": "p0.png", "text": value},
        "captions.json": {"p0.png": {"caption": value}},
        "p0.json": {"caption": value},
    }
    with pytest.raises(DatasetError, match="is not a caption") as error:
        trained(make_folder, tmp_path, {name: json.dumps(contents[name]).encode()})
    assert where in str(error.value)


@pytest.mark.parametrize(
    "text", ["TOK on sand\na toy TOK\n", "\r\nTOK on sand\r\n\r\na toy TOK", "TOK on sand\n\n\na toy TOK\nTOK on sand"]
)
@pytest.mark.parametrize("suffix", [".txt", ".caption", ".png.txt"])
def test_each_line_of_a_text_file_is_a_caption(text: str, suffix: str, make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = trained(make_folder, tmp_path, {f"p0{suffix}": text.encode()})
    assert captions(dataset)[0] == ("TOK on sand", "a toy TOK")
    assert any("1 of 2 images have several captions" in line and "p0.png" in line for line in dataset.warnings)


def test_each_of_several_captions_gets_the_trigger(make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = trained(make_folder, tmp_path, {"p0.txt": b"a dog\na TOK\nred sand"}, class_word="dog")
    assert captions(dataset)[0] == ("a TOK dog", "a TOK", "TOK, red sand")


def test_several_captions_are_kept_when_a_dataset_is_opened_again(make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = trained(make_folder, tmp_path, {"p0.txt": b"a TOK\na toy TOK"})
    config, base = build_settings(DataConfig, {}), BaseRequirements()
    again = reopen(dataset.folder, config, base)
    assert captions(again) == captions(dataset) and again.digest() == dataset.digest()
    table = dataset.folder / "dataset.jsonl"
    table.write_text(table.read_text().replace("a toy TOK", "a new TOK"))
    edited = reopen(dataset.folder, config, base)
    assert edited.examples[0].captions == ("a TOK", "a new TOK") and edited.digest() != dataset.digest()
    table.write_text(table.read_text().replace("a new TOK", "a new toy"))
    with pytest.raises(DatasetError, match="line 1.*lacks the trigger word TOK: 'a new toy'"):
        reopen(dataset.folder, config, base)


def test_a_dataset_of_one_caption_an_image_has_the_digest_that_it_had(make_folder: MakeFiles, tmp_path: Path) -> None:
    dataset = trained(make_folder, tmp_path, {"p0.txt": b"a TOK"})
    lines = (dataset.folder / "dataset.jsonl").read_text().splitlines()
    assert not any("other_captions" in json.loads(line) for line in lines)
    again = PreparedDataset.read(dataset.folder)
    assert again.digest() == dataset.digest()
    assert all(isinstance(example, Example) and not example.other_captions for example in again.examples)
