"""Uploads that were damaged, come from other systems, or are meant to do harm: one line, and nothing half-written."""

import io
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.captions.columns import Columns, require_other_use
from preprocess.captions.json_text import parse_json
from preprocess.captions.labels import preservation_label
from preprocess.captions.pairing import Caption
from preprocess.captions.tables import read_table
from preprocess.captions.wildcards import MOST_NESTED, expanded
from preprocess.command_line import main
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from preprocess.uploads.archive import LONGEST_HEADER, ArchiveLimits, require_safe, unpack
from preprocess.uploads.given_data import require_present
from preprocess.uploads.identity import identify, read_identities, write_identities
from preprocess.uploads.intake import take_in
from settings.filters import parse_filter
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.conftest import png

OPTIONS = {"resolution": 64, "captioner": "none", "trigger_word": "TOK", "min_image_side": 8}


def tar_of(path: Path, names: dict[bytes, bytes]) -> Path:
    """A tar whose names are these bytes."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in names.items():
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def with_headers(path: Path, headers: list[tarfile.TarInfo]) -> Path:
    blocks = b"".join(header.tobuf(tarfile.GNU_FORMAT) for header in headers)
    path.write_bytes(blocks + bytes(2 * tarfile.BLOCKSIZE))
    return path


def header(kind: bytes, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, size
    return info


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_contents_of_a_zip(method: int, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.txt", random.Random(0).randbytes(400))
    data = path.read_bytes()
    for place in range(60, 200, 10):
        path.write_bytes(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])
        with pytest.raises(DatasetError, match=r"^photos\.zip: "):
            unpack(path, tmp_path / f"out{place}")


def test_errors_of_the_decompressors_are_those_of_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", b"hello " * 50)
    data = bytearray(path.read_bytes())
    start = data.index(b"a.txt") + len(b"a.txt") + 9  # behind LZMA's properties
    data[start : start + 20] = bytes(255 - each for each in data[start : start + 20])
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive, pytest.raises((lzma.LZMAError, EOFError, zipfile.BadZipFile)):
        archive.read("a.txt")
    with pytest.raises(DatasetError, match=r"photos\.zip: cannot be read"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_long_header_of_a_tar_is_not_read_into_memory(kind: bytes, tmp_path: Path) -> None:
    path = with_headers(tmp_path / "photos.tar", [header(tarfile.REGTYPE), header(kind, LONGEST_HEADER + 1)])
    with pytest.raises(DatasetError, match=r"photos\.tar: a header of 1,048,577 bytes"):
        require_safe(path, ArchiveLimits())
    with pytest.raises(DatasetError, match="a header of"):
        unpack(with_headers(tmp_path / "first.tar", [header(kind, 1 << 34)]), tmp_path / "out")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="sparse"):
        unpack(with_headers(tmp_path / "photos.tar", [header(tarfile.GNUTYPE_SPARSE)]), tmp_path / "out")


def test_folders_are_counted(tmp_path: Path) -> None:
    path = with_headers(tmp_path / "photos.tar", [header(tarfile.DIRTYPE)] * 5)
    with pytest.raises(DatasetError, match="more than 4 files"):
        require_safe(path, ArchiveLimits(members=4))


def test_names_in_a_tar_of_an_older_system(tmp_path: Path) -> None:
    source = tar_of(
        tmp_path / "photos.tar",
        {b"caf\xe9.png": png(), "ü/漢.png".encode(): png(colour=(0, 0, 255)), b"caf\xe9.txt": b"a cup"},
    )
    dataset = prepare([source], build_settings(DataConfig, OPTIONS), tmp_path / "out")
    assert {each.source: each.caption for each in dataset.examples} == {
        "café.png": "TOK, a cup",
        "ü/漢.png": "a photo of TOK",
    }


def test_names_in_a_folder_of_an_older_system(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(png())
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(png(colour=(0, 0, 255)))
    dataset = prepare([folder], build_settings(DataConfig, OPTIONS), tmp_path / "out")
    assert [each.source for each in dataset.examples] == ["good.png"]
    (rejected,) = dataset.rejected
    assert rejected.source == "caf\\xe9.png" and "is not UTF-8" in rejected.reason
    write_identities(identify([folder], tmp_path / "out"), tmp_path / "sources.json")
    assert [len(each.files) for each in read_identities(tmp_path / "sources.json") or ()] == [2]


def test_half_an_emoji_in_a_caption(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "a.json").write_text('{"text": "a cup \\ud83d"}')
    dataset = prepare([folder], build_settings(DataConfig, OPTIONS), tmp_path / "out")
    assert dataset.examples[0].caption == "TOK, a cup \N{REPLACEMENT CHARACTER}"
    assert parse_json('["\\ud83d\\ude00"]', "x") == ["\N{GRINNING FACE}"]


def test_a_multiple_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--output", str(tmp_path / "out"), "--size_multiple", "0"]) == 2
    assert "size_multiple: 0 must be at least 1" in capsys.readouterr().err


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text,Text\na.png,a dog,a cat\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"metadata\.csv: has two columns named 'text'"):
        read_table(tmp_path / "metadata.csv", Columns())


def test_numbers_and_nesting_without_limit() -> None:
    with pytest.raises(DatasetError, match="x: is not JSON"):
        parse_json("9" * 5000, "x")
    assert "needs a number" in (parse_filter("n > 3").refuses({"n": 10**400}) or "")
    with pytest.raises(DatasetError, match="needs a column for the text"):
        require_other_use({"file_name": "a.png", "n": 10**400}, "file_name", Columns(), "x")
    config = build_settings(DataConfig, OPTIONS)
    deep = "{a|" * (MOST_NESTED + 1) + "b" + "}" * (MOST_NESTED + 1)
    with pytest.raises(DatasetError, match=r"a\.png: its caption has alternatives inside 21 braces"):
        preservation_label("a.png", Caption(deep, "a.txt"), None, 1, config)
    allowed = deep[3:-1]
    assert preservation_label("a.png", Caption(allowed, "a.txt"), None, 1, config).captions == ("a", "b")
    assert len(expanded("{a|b|c} " * 3000)) == 64
    assert expanded("{1-2$$ and $$a|b} dog") == ("a dog", "b dog")


@pytest.mark.parametrize(
    "check", [lambda url, path: require_present([url]), lambda url, path: take_in([url], path, ArchiveLimits())]
)
def test_a_url_that_is_none(check: Callable[[str, Path], object], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is not a valid URL"):
        check("https://[x/a.zip", tmp_path)
