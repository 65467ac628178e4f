"""Tests that a caption is assigned to an image by its name, and is never lost without a warning."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from preprocess.captions.columns import Columns
from preprocess.captions.file_names import file_name_caption
from preprocess.captions.pairing import CaptionFinder
from preprocess.captions.trigger import with_affixes, with_trigger
from preprocess.errors import DatasetError
from preprocess.uploads.decoding import is_image_name
from preprocess.uploads.intake import FoundFile
from tests.conftest import png

MakeFiles = Callable[[Mapping[str, bytes]], Path]


ANY_COLUMNS = Columns()


def finder(folder: Path, columns: Columns = ANY_COLUMNS) -> CaptionFinder:
    files = [
        FoundFile(path, path.relative_to(folder).as_posix(), folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    images = [file for file in files if is_image_name(file.path)]
    return CaptionFinder(images, [file for file in files if file not in images], columns)


def found(folder: Path, image: str = "a.png", columns: Columns = ANY_COLUMNS) -> tuple[str, str] | None:
    caption, _ = finder(folder, columns).find(FoundFile(folder / image, image, folder))
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
        ("captions.json", '{"a.png": "a red thing"}'),
        ("captions.json", '{"a": {"caption": "a red thing"}}'),
        ("captions.json", '[{"image": "a.png", "text": "a red thing"}]'),
        ("a.json", '{"caption": "a red thing", "aesthetic": 5}'),
        ("A.TXT", "a red thing"),
        ("captions.csv", "A.PNG;a red thing"),
        ("captions.csv", "file\ttext\na.png\ta red thing"),
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
        ("metadata.jsonl", "{oops", r"metadata\.jsonl, line 1: is not JSON"),
        ("metadata.jsonl", '{"file_name": "a.png"}', "needs a column for the text"),
        ("captions.csv", "file,words\na.png,x", r"captions\.csv, line 2: needs a column for the text"),
        ("captions.csv", "a.png", "not a pair of file name and caption"),
        ("captions.csv", "file,text\na.png,one\na.png,two", "two captions for a.png: 'one' and 'two'"),
        ("captions.json", "[1]", r"captions\.json, entry 1: a JSON object with file_name"),
        ("captions.json", '"x"', "a mapping of file names to captions"),
    ],
)
def test_a_table_that_cannot_be_understood_is_an_error(
    name: str, text: str, message: str, make_folder: MakeFiles
) -> None:
    with pytest.raises(DatasetError, match=message):
        finder(make_folder({"a.png": png(), name: text.encode()}))


def test_columns_of_any_name(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "metadata.csv": b"Bild,Worte,text\na.png,a red thing,other"})
    assert found(folder, columns=Columns("Bild", "Worte")) == ("a red thing", "metadata.csv")


def test_a_bare_name_that_two_images_have_is_given_to_neither(make_folder: MakeFiles) -> None:
    folder = make_folder({"x/1.png": png(), "y/1.png": png(), "captions.csv": b"1.png,which one?"})
    assert found(folder, "x/1.png") is None and found(folder, "y/1.png") is None
    assert any("matches an image" in warning for warning in finder(folder).table_warnings())


def test_composed_and_decomposed_names_are_the_same(make_folder: MakeFiles) -> None:
    folder = make_folder({"cafe\u0301.png": png(), "captions.csv": "caf\u00e9.png,a house".encode()})
    assert found(folder, "cafe\u0301.png") == ("a house", "captions.csv")


@pytest.mark.parametrize(
    "files",
    [
        {"10_a photo of Zoe\u0308/a.png": png()},
        {"x/a.png": png(), "x/a.json": rb'{"caption": "a photo of Zoe\u0308"}'},
        {"x/a.png": png(), "x/captions.json": rb'{"a.png": ["a photo of Zoe\u0308"]}'},
    ],
)
def test_decomposed_accents_in_captions_are_composed(files: Mapping[str, bytes], make_folder: MakeFiles) -> None:
    caption = found(make_folder(files), next(iter(files)))
    assert caption is not None and caption[0] == "a photo of Zo\u00eb"
    assert file_name_caption(Path("a photo of Zoe\u0308.png"), None) == "a photo of Zo\u00eb"


def test_text_files_whose_names_differ_only_in_case_belong_to_their_images(make_folder: MakeFiles) -> None:
    folder = make_folder({"A.png": png(), "A.txt": b"a red thing", "a.png": png(), "a.txt": b"a blue thing"})
    if len(list(folder.iterdir())) < 4:
        pytest.skip("the file system ignores case")
    assert found(folder, "A.png") == ("a red thing", "A.txt")
    assert found(folder, "a.png") == ("a blue thing", "a.txt")


def test_a_name_with_two_captions_in_a_mapping_is_an_error(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "captions.json": b'{"a.png": "a red thing", "a.png": "a blue thing"}'})
    with pytest.raises(DatasetError, match=r"captions.json: has two values for 'a.png'. Keep one."):
        finder(folder)
    folder = make_folder({"a.png": png(), "captions.json": b'{"a.png": "a red thing", "a.png": "a red thing"}'})
    assert found(folder) == ("a red thing", "captions.json")


def test_empty_captions_give_way_and_are_named(make_folder: MakeFiles) -> None:
    folder = make_folder({"a.png": png(), "a.txt": b" ", "captions.csv": b"a.png,from the table"})
    caption, warnings = finder(folder).find(FoundFile(folder / "a.png", "a.png", folder))
    assert caption is not None and caption.text == "from the table"
    assert warnings == ["a.png: its caption in a.txt is empty"]


@pytest.mark.parametrize(
    ("name", "wanted", "caption"),
    [
        ("a man on a horse_(2).jpg", None, "a man on a horse"),
        ("IMG_1234.jpg", None, None),
        ("IMG_1234.jpg", True, "IMG"),
        ("a man, on a horse.jpg", False, None),
        ("_1.jpg", True, None),
    ],
)
def test_captions_in_file_names(name: str, wanted: bool | None, caption: str | None) -> None:
    assert file_name_caption(Path(name), wanted) == caption


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("", "", "a TOK"),
        ("photo", "sharp", "photo, a TOK, sharp"),
        ("photo:", ".", "photo: a TOK."),
        (" photo, ", ", sharp", "photo, a TOK, sharp"),
    ],
)
def test_prefix_and_suffix(prefix: str, suffix: str, expected: str) -> None:
    assert with_affixes("a TOK", prefix, suffix) == expected


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
        ("a woman on a beach", "face", None, "a TOK woman on a beach"),
        ("a mandolin on a beach", "face", None, "TOK, a mandolin on a beach"),
        ("a photo of tok", "object", None, "a photo of TOK"),
    ],
)
def test_the_trigger_is_put_in(caption: str, mode: str, class_word: str | None, expected: str) -> None:
    assert with_trigger(caption, "TOK", class_word, mode) == expected


@pytest.mark.parametrize(
    "name",
    [
        "WhatsApp Image 2024-05-12 at 10.15.33.jpeg", "WhatsApp Image 2024-05-12 at 10.15.33 (1).jpeg",
        "Screenshot 2024-05-12 at 10.15.33.png", "Screen Shot 2023-01-02 at 9.05.00 PM.png",
        "Bildschirmfoto 2024-05-12 um 10.15.33.png", "Capture d’écran 2024-05-12 à 10.15.33.png",
        "Copy of IMG_0012.jpg", "Copy of a photo of grandma.jpg", "Kopie von Foto am See.jpg", "IMG 2024 05 12.jpg",
        "DSC_0042.jpg", "DSC 0042 copy 2.jpg", "PXL 20240512 101533.jpg", "Photo on 12-05-24 at 10.15.jpg",
        "DALL·E 2024-05-12 10.15.33 - a robot on sand.png", "ChatGPT Image May 12, 2024, 10 15 33 AM.png",
        "Gemini_Generated_Image_x.png", "Gemini Generated Image of robot.png",
        "00012-3245234987-a robot on sand.png", "a robot on sand 3245234987.png", "12 05 2024 10 15.jpg",
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301 my robot photo.png", "deadbeef01 deadbeef02 deadbeef03.png",
        "image (1) final version.jpg", "Untitled design for the shop.png", "new project for my robot.png",
        "scan 12 of the robot.png", "1 2 3 4.png", "Image from iOS at home.jpg", "FB IMG 1650000000000.jpg",
        "received 12345678 9 10.jpeg", "unsplash photo of a robot.jpg",
    ],
)  # fmt: skip
def test_names_that_cameras_and_programs_give_are_no_captions(name: str) -> None:
    assert file_name_caption(Path(name), None) is None


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a photo of a man_3.jpg", "a photo of a man"),
        ("picture of 3 dogs on grass.png", "picture of 3 dogs on grass"),
        ("line drawing of a robot.png", "line drawing of a robot"),
        ("a man in 1950s clothing.jpg", "a man in 1950s clothing"),
        ("a man on a horse (2).jpg", "a man on a horse"),
        ("a man on a horse - Copy.jpg", "a man on a horse"),
        ("a man on a horse copy 2.jpg", "a man on a horse"),
        ("ein Mann, der reitet.jpg", "ein Mann, der reitet"),
        ("image of a dog.jpg", "image of a dog"),
        ("signal lamp at sea.jpg", "signal lamp at sea"),
    ],
)
def test_words_of_a_person_are_a_caption(name: str, caption: str) -> None:
    assert file_name_caption(Path(name), None) == caption
