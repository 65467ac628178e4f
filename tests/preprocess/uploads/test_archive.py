"""Tests of unpacking archives: unsafe names, links, encrypted members and archives beyond the limits are refused."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.errors import DatasetError
from preprocess.uploads.archive import ArchiveLimits, safe_path, unpack
from tests.conftest import png

MakeFiles = Callable[[Mapping[str, bytes]], Path]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_come_out_where_they_were(make_zip: MakeFiles, tmp_path: Path) -> None:
    archive = make_zip({"a.png": b"1", "deep/down/b.png": b"2", "back\\slash.png": b"3"})
    assert names(unpack(archive, tmp_path / "out")) == {"a.png", "deep/down/b.png", "back/slash.png"}


def test_what_operating_systems_leave_is_passed_over(make_zip: MakeFiles, tmp_path: Path) -> None:
    archive = make_zip({"a.png": b"1", "__MACOSX/._a.png": b"2", ".DS_Store": b"3", "x/Thumbs.db": b"4"})
    assert names(unpack(archive, tmp_path / "out")) == {"a.png"}


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "..\\evil.png"])
def test_names_that_leave_the_folder_are_refused(name: str, make_zip: MakeFiles, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absolute path or contains"):
        unpack(make_zip({name: b"1"}), tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


@given(st.text(min_size=1, max_size=40))
def test_a_safe_path_never_leaves_its_folder(name: str) -> None:
    try:
        path = safe_path(name)
    except DatasetError:
        return
    inside = os.path.normpath(os.path.join("/inside", *path.parts))
    assert inside.startswith("/inside/")


def test_two_files_of_one_name_are_refused(make_zip: MakeFiles, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="twice"):
        unpack(make_zip({"cat.png": b"1", "CAT.png": b"2"}), tmp_path / "out")


def test_a_bomb_stops_at_the_limit(make_zip: MakeFiles, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", b"\0" * 5_000_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(DatasetError, match=r"big\.png: is larger than the 1,000,000 bytes"):
        unpack(path, tmp_path / "out", ArchiveLimits(file_bytes=1_000_000))


def test_too_many_members(make_zip: MakeFiles, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="more than 3 files"):
        unpack(make_zip({f"{i}.png": b"1" for i in range(4)}), tmp_path / "out", ArchiveLimits(members=3))


def test_encrypted_members_are_refused(make_zip: MakeFiles, tmp_path: Path) -> None:
    archive = make_zip({"a.png": b"1"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flag in the local header …
    data[data.index(b"PK\x01\x02") + 8] |= 1  # … and in the central directory
    archive.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match="encrypted"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "upload.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DatasetError, match="link or device"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tars_are_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.bin"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("photos/a.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    assert names(unpack(path, tmp_path / "out")) == {"photos/a.png"}


def test_what_is_no_archive_says_so(tmp_path: Path) -> None:
    text = tmp_path / "photos.zip"
    text.write_text("hello")
    with pytest.raises(DatasetError, match=r"photos\.zip: is neither a zip nor a tar"):
        unpack(text, tmp_path / "out")
    text.write_bytes(b"")
    with pytest.raises(DatasetError, match="0 bytes"):
        unpack(text, tmp_path / "out")
    with pytest.raises(DatasetError, match="does not exist"):
        unpack(tmp_path / "missing.zip", tmp_path / "out")


def test_a_cut_off_zip_says_so(make_zip: MakeFiles, tmp_path: Path) -> None:
    archive = make_zip({"a.png": png((400, 400)), "b.png": png((400, 401))})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DatasetError, match=r"upload\.zip"):
        unpack(archive, tmp_path / "out")


def test_an_empty_zip_says_so(make_zip: MakeFiles, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the archive is empty"):
        unpack(make_zip({}), tmp_path / "out")
