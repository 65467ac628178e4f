"""Tests of shards in object stores, with a local S3 server (moto's): globs, braces, and failures."""

from pathlib import Path

import datasets
import pytest
import s3fs

from preprocess.errors import DatasetError
from preprocess.sources.stores import errors_of_store, expanded
from tests.fast_part import slow_but
from tests.preprocess.sources.local_s3 import Store, s3
from tests.preprocess.sources.test_tables import (
    PICTURES,
    TEXTS,
    captions,
    prepared,
    rows,
    with_triggers,
)
from tests.preprocess.uploads.ugly_uploads.making import shard, zipped

__all__ = ["rows", "s3"]
PATTERNS = ("{00000..00003}.tar", "*.tar", "0000{0,1,2,3}.tar", "0000[0-3].tar")


def one(index: int) -> bytes:
    return shard({f"{index}.png": PICTURES[index], f"{index}.txt": TEXTS[index].encode()})


@pytest.fixture
def shards(s3: Store) -> Store:
    s3.put("open", {f"data/{index:05d}.tar": one(index) for index in range(4)})
    return s3


@pytest.mark.parametrize("pattern", slow_but(PATTERNS[:2], PATTERNS))
def test_ranges_and_globs_name_all_shards(pattern: str, shards: Store, tmp_path: Path) -> None:
    dataset = prepared([f"s3://open/data/{pattern}"], tmp_path / "out", class_word="robot")
    expected = {f"{index:05d}.tar/{index}.png": text for index, text in enumerate(with_triggers(TEXTS))}
    assert captions(dataset) == expected


def test_other_files_of_a_store(s3: Store, rows: datasets.Dataset, tmp_path: Path) -> None:
    rows.to_parquet(tmp_path / "a.parquet")
    s3.put("open", {"a.zip": zipped({"a.png": PICTURES[0]}), "a.parquet": (tmp_path / "a.parquet").read_bytes()})
    assert list(captions(prepared(["s3://open/a.zip"], tmp_path / "1"))) == ["a.png"]
    assert list(captions(prepared(["s3://open/a.parquet"], tmp_path / "2", class_word="robot")).values()) == (
        with_triggers(TEXTS)
    )


def test_files_of_this_disk_by_ranges(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.tar").write_bytes(one(index))
    dataset = prepared([f"file:{tmp_path}/{{0..2}}.tar"], tmp_path / "out")
    assert list(captions(dataset)) == ["0.tar/0.png", "1.tar/1.png", "2.tar/2.png"]
    assert list(captions(prepared([f"file://{tmp_path}/[01].tar"], tmp_path / "2"))) == ["0.tar/0.png", "1.tar/1.png"]


def test_a_shard_that_is_cut_or_damaged_is_named(s3: Store, tmp_path: Path) -> None:
    whole, size = one(1), len(PICTURES[1])
    between = 512 + (size + 511) // 512 * 512  # the end of the first file; a tar cut here has no end mark
    damaged = {"1": whole[: 512 + size // 2], "2": whole[:between], "3": b"no tar at all" * 100, "4": whole[:700]}
    s3.put("cut", {"0.tar": one(0), **{f"{name}.tar": data for name, data in damaged.items()}})
    for name in damaged:
        with pytest.raises(DatasetError, match=rf"^s3://cut/{name}.tar: [^\n]*(truncated|cannot be read)[^\n]*again"):
            prepared([f"s3://cut/{{0,{name}}}.tar"], tmp_path / name)


def test_a_bucket_that_denies_access_is_named_with_its_remedy(shards: Store, tmp_path: Path) -> None:
    shards.denied.add("open")
    for number, pattern in enumerate(("{00000..00003}.tar", "*.tar")):
        with pytest.raises(DatasetError, match=r"^s3://open/data/\S*: access is denied.*AWS_ACCESS_KEY_ID"):
            prepared([f"s3://open/data/{pattern}"], tmp_path / str(number))


class Answered(Exception):
    """An error like azure's HttpResponseError (`status_code`) and gcsfs' HttpError (`code`)."""

    def __init__(self, **status: int | str) -> None:
        super().__init__("a line with the request's headers")
        vars(self).update(status)


@pytest.mark.parametrize(
    ("address", "error", "variable"),
    [
        ("az://b/0.tar", Answered(status_code=403), "AZURE_STORAGE_CONNECTION_STRING"),
        ("az://b/0.tar", ValueError("Must provide either a connection_string"), "AZURE_STORAGE_CONNECTION_STRING"),
        ("gs://b/0.tar", Answered(code=401), "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://b/0.tar", Answered(code="403"), "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_what_other_stores_deny_has_the_remedy_too(address: str, error: Exception, variable: str) -> None:
    with (
        pytest.raises(DatasetError, match=f"^{address}: access is denied.*{variable}") as denied,
        errors_of_store(address),
    ):
        raise error
    assert "headers" not in str(denied.value)
    for other in (Answered(status_code=503), OSError("gone")):
        with pytest.raises(DatasetError, match="cannot be read completely"), errors_of_store(address):
            raise other


def test_what_is_not_there_is_named(shards: Store, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"s3://open/data/00004.tar: does not exist"):
        prepared(["s3://open/data/{00003..00004}.tar"], tmp_path / "1")
    with pytest.raises(DatasetError, match=r"s3://open/other/\*.tar: matches no file"):
        prepared(["s3://open/other/*.tar"], tmp_path / "2")


def test_an_outage_in_the_middle_is_named_with_its_remedy(
    shards: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    shards.failing.add("/open/data/00002.tar")
    with pytest.raises(DatasetError, match=r"^s3://open/data/00002.tar: cannot be read completely.*start again"):
        prepared(["s3://open/data/{00000..00003}.tar"], tmp_path / "1")


def test_archives_keep_their_limits_in_a_stream(s3: Store, tmp_path: Path) -> None:
    s3.put("open", {"a.tar": shard({"a.png": PICTURES[0], "b.png": PICTURES[1]}), "x.tar": shard({"../x.png": b"x"})})
    with pytest.raises(DatasetError, match="^s3://open/a.tar: the archive contains more than 1 files"):
        prepared(["s3://open/a.tar"], tmp_path / "1", max_archive_files=1)
    with pytest.raises(DatasetError, match="absolute path or contains .."):
        prepared(["s3://open/x.tar"], tmp_path / "2")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://b/{0..999999999}.tar", "more than 100 files"),
        ("s3://b/{0..99999999999999999999}.tar", "more than 100 files"),
        ("s3://b/{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}.tar", "more than 100 files"),
        ("s3://b/{{0..9},{0..9}}.tar", "nested braces"),
        ("s3://b/{0..3.tar", "has an unclosed brace"),
        ("s3://key:secret@b/0.tar", "credentials in the environment"),
        ("s3://b/0.tar::zip://x", "credentials in the environment"),
    ],
)
def test_patterns_are_checked_before_anything_is_listed(source: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as refused:
        expanded(source, 100)
    assert "secret" not in str(refused.value)


def test_a_store_whose_package_is_missing_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="gs://b/0.tar: needs the package gcsfs.*pip install gcsfs"):
        prepared(["gs://b/0.tar"], tmp_path / "1")
    with pytest.raises(DatasetError, match="az://b/0.tar: needs the package adlfs.*pip install adlfs"):
        prepared(["az://b/0.tar"], tmp_path / "2")
