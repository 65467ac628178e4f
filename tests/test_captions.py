"""A caption belongs to an image by its name, and is never lost in silence."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.captions import caption_tables, find_caption, has_trigger, with_trigger
from preprocess.errors import DatasetError
from tests.conftest import png

MakeFiles = Callable[[Mapping[str, bytes]], Path]


def found(folder: Path, image: str = "a.png") -> tuple[str, str] | None:
    caption = find_caption(folder / image, caption_tables(folder))
    return (caption.text, caption.source) if caption else None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a red thing"),
        ("a.caption", "a red thing\n"),
        ("a.png.txt", "a red  thing"),
        ("caption.csv", "a.png,a red thing"),
        ("captions.csv", "image_file,caption\nb.png,other\na.png,a red thing"),
        ("captions.csv", '\ufefffile_name,text\na.png,"a red thing"'),
        ("captions.csv", "caption,file\na red thing,a.png"),
        ("metadata.csv", "file_name,text\na.png,a red thing"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a red thing"}\n\n{"file_name": "b.png", "text": "other"}'),
        ("metadata.jsonl", '{"file_name": "./a.png", "prompt": "a red thing"}'),
    ],
)
def test_every_source_is_found(name: str, text: str, make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), name: text.encode()})
    assert found(folder) == ("a red thing", name)


def test_commas_in_a_table_without_header_belong_to_the_caption(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "captions.csv": b"a.png, a red, round thing\n"})
    assert found(folder) == ("a red, round thing", "captions.csv")


def test_precedence(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "captions.csv": b"a.png,table", "a.txt": b"sidecar"})
    assert found(folder) == ("sidecar", "a.txt")
    (folder / "metadata.csv").write_text("file_name,text\na.png,metadata")
    assert found(folder) == ("metadata", "metadata.csv")


def test_never_by_position(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "captions.csv": b"file,caption\nx.png,first\ny.png,second"})
    assert found(folder) is None


def test_images_of_one_name_in_two_folders_keep_their_captions(make_folder: MakeFiles) -> None:
    folder = make_folder(
        {"x/1.png": png(), "y/1.png": png(), "metadata.csv": b"file_name,text\nx/1.png,the first\ny/1.png,the second"}
    )
    assert found(folder, "x/1.png") == ("the first", "metadata.csv")
    assert found(folder, "y/1.png") == ("the second", "metadata.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.jsonl", "{oops", r"metadata\.jsonl, line 1: not JSON"),
        ("metadata.jsonl", '{"file_name": "a.png"}', "needs a file .* and a text"),
        ("captions.csv", "file,words\na.png,x", "names only one of"),
        ("captions.csv", "a.png", "no pair of file name and caption"),
    ],
)
def test_a_table_that_cannot_be_understood_is_an_error(
    name: str, text: str, message: str, make_folder: MakeFiles
) -> None:
    with pytest.raises(DatasetError, match=message):
        caption_tables(make_folder({"a.png": png(), name: text.encode()}))


def test_windows_text_is_read(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "a.txt": "a café".encode("cp1252")})
    assert found(folder) == ("a café", "a.txt")


@pytest.mark.parametrize(
    ("caption", "mode", "class_word", "expected"),
    [
        ("a photo of TOK", "object", None, "a photo of TOK"),
        ("a dog on grass", "object", "dog", "a TOK dog on grass"),
        ("A Dog on grass", "object", "dog", "A TOK Dog on grass"),
        ("a hotdog on grass", "object", "dog", "TOK, a hotdog on grass"),
        ("Tokyo and TOKYO", "object", None, "TOK, Tokyo and TOKYO"),
        ("a house", "style", None, "a house, in the style of TOK"),
        ("", "object", "dog", "a photo of TOK dog"),
        ("", "style", None, "a picture in the style of TOK"),
    ],
)
def test_the_trigger_is_put_in(caption: str, mode: str, class_word: str | None, expected: str) -> None:
    assert with_trigger(caption, "TOK", class_word, mode) == expected


@given(st.text(max_size=80), st.sampled_from(["face", "object", "style"]), st.sampled_from([None, "dog"]))
def test_every_caption_ends_up_with_the_trigger_once_and_for_all(text: str, mode: str, class_word: str | None) -> None:
    once = with_trigger(text, "TOK", class_word, mode)
    assert has_trigger(once, "TOK")
    assert with_trigger(once, "TOK", class_word, mode) == once
