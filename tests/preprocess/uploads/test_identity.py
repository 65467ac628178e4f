"""Tests of comparing data with those of an earlier run: equal data have no differences, and changes are named."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from preprocess.uploads.identity import differences, identify, read_identities, write_identities
from tests.conftest import png

MakeFiles = Callable[[Mapping[str, bytes]], Path]
FILES = {"a/1.png": png(), "a/1.txt": b"one", "b/2.png": png(colour=(1, 2, 3))}


def test_a_folder_is_the_same_with_an_output_in_it(make_folder: MakeFiles, tmp_path: Path) -> None:
    folder = make_folder(FILES)
    output = folder / "run"
    before = identify([folder], output)
    write_identities(before, tmp_path / "sources.json")
    output.mkdir()
    (output / "config.yaml").write_text("seed: 0")
    other = folder / "earlier"
    other.mkdir()
    for name in ("config.yaml", "metrics.jsonl", "0.png"):
        (other / name).write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"x")
    stored = read_identities(tmp_path / "sources.json")
    assert stored == before and differences(before, identify([folder], output)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a" / "1.txt").write_bytes(b"two"), "photos: 1 files are changed: a/1.txt"),
        (lambda folder: (folder / "c.png").write_bytes(png()), "photos: 1 files are new: c.png"),
        (lambda folder: (folder / "b" / "2.png").unlink(), "photos: 1 files are gone: b/2.png"),
    ],
)
def test_a_changed_folder_is_named_by_its_files(
    change: Callable[[Path], object], message: str, make_folder: MakeFiles, tmp_path: Path
) -> None:
    folder = make_folder(FILES)
    before = identify([folder], tmp_path / "out")
    change(folder)
    assert differences(before, identify([folder], tmp_path / "out")) == [message]


def test_archives_and_shards_are_read_whole(make_zip: MakeFiles, make_folder: MakeFiles, tmp_path: Path) -> None:
    archive, folder = make_zip(FILES), make_folder({"x.png": png(), "0.tar": b"tar"})
    before = identify([archive, folder], tmp_path / "out")
    assert [one.name for one in before] == ["upload.zip", "photos"]
    archive.write_bytes(archive.read_bytes()[:-1] + b"\1")
    (folder / "0.tar").write_bytes(b"rat")
    assert differences(before, identify([archive, folder], tmp_path / "out")) == [
        "upload.zip: its content has changed", "photos: 1 files are changed: 0.tar",
    ]  # fmt: skip
    assert differences(before, identify([folder], tmp_path / "out")) == ["then upload.zip, photos; now photos"]


def test_a_file_url_is_read_like_its_path(make_zip: MakeFiles, tmp_path: Path) -> None:
    archive = make_zip(FILES)
    url = archive.as_uri()
    before = identify([url], tmp_path / "out")
    assert before == identify([archive], tmp_path / "out")
    archive.write_bytes(archive.read_bytes()[:-1] + b"\1")
    assert differences(before, identify([url], tmp_path / "out")) == ["upload.zip: its content has changed"]


def test_of_an_address_the_signature_does_not_count(tmp_path: Path) -> None:
    one, two = "https://example.org/data/a.zip?signature=1", "https://example.org/data/a.zip?signature=2"
    before = identify([one], tmp_path)
    assert differences(before, identify([two], tmp_path)) == []
    assert differences(before, identify(["https://example.org/other/a.zip"], tmp_path)) != []
    assert "signature" not in str(before)


def test_what_is_no_such_file_is_none(tmp_path: Path) -> None:
    assert read_identities(tmp_path / "nothing.json") is None
    (tmp_path / "broken.json").write_text('[{"name": 3}]')
    assert read_identities(tmp_path / "broken.json") is None
