"""Tests of the forms of data: several uploads at once, nested folders, webdataset shards, URLs, and files that are not
archives."""

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from preprocess.uploads.archive import ArchiveLimits
from preprocess.uploads.intake import take_in
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.preprocess.uploads.ugly_uploads.making import picture, shard, zipped

MakeFiles = Callable[[Mapping[str, bytes]], Path]
OPTIONS = {"resolution": 64, "captioner": "none"}
A, B, C, D = (picture(seed=seed) for seed in range(4))


def prepared(sources: list[str | Path], output: Path, **options: object) -> PreparedDataset:
    return prepare(sources, build_settings(DataConfig, OPTIONS | options), output)


def captions(dataset: PreparedDataset) -> dict[str, str]:
    return {example.source: example.caption for example in dataset.examples}


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def names(sources: list[str | Path], scratch: Path, limits: ArchiveLimits | None = None) -> list[str]:
    return [file.name for file in take_in(sources, scratch, limits or ArchiveLimits()).files]


# several at once


def test_one_source_needs_no_prefix_and_several_have_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "photos", {"b.png": A, "in/a.png": B})
    (tmp_path / "more.zip").write_bytes(zipped({"a.png": C}))
    assert names([folder], tmp_path / "1") == ["b.png", "in/a.png"]
    both: list[str | Path] = [folder, str(tmp_path / "more.zip")]
    assert names(both, tmp_path / "2") == ["photos/b.png", "photos/in/a.png", "more.zip/a.png"]


def test_captions_stay_with_their_own_source(tmp_path: Path) -> None:
    one = written(tmp_path / "one", {"a.png": A, "a.txt": b"the first TOK", "captions.csv": b"b.png,lost"})
    two = written(tmp_path / "two", {"a.png": B, "b.png": C, "captions.csv": b"a.png,TOK two\nb.png,TOK three"})
    dataset = prepared([one, two], tmp_path / "dataset")
    assert captions(dataset) == {
        "one/a.png": "the first TOK",
        "two/a.png": "TOK two",
        "two/b.png": "TOK three",
    }
    assert any("captions.csv: none of its 1 rows" in line for line in dataset.warnings)


def test_sources_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    """Several archives called photos.zip: each file has a unique name, to which its caption and warnings belong."""
    for folder, data in (("anna", A), ("ben", B), ("cleo", C)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photos.zip").write_bytes(zipped({"1.png": data}))
    sources: list[str | Path] = [tmp_path / folder / "photos.zip" for folder in ("anna", "ben", "cleo")]
    assert names(sources, tmp_path / "scratch") == [f"{folder}/photos.zip/1.png" for folder in ("anna", "ben", "cleo")]
    assert len(captions(prepared(sources, tmp_path / "dataset"))) == 3
    twice = names([sources[0], sources[0]], tmp_path / "twice")
    assert twice == ["anna/photos.zip/1.png", "anna/photos.zip (2)/1.png"]


def test_the_very_same_picture_in_two_sources_is_trained_once(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", {"a.png": A}), written(tmp_path / "two", {"b.png": A})
    dataset = prepared([one, two], tmp_path / "dataset")
    assert list(captions(dataset)) == ["one/a.png"]
    assert "has the same pixels as one/a.png" in dataset.rejected[0].reason


def test_nothing_given_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="data: is missing. Give a zip, a tar, a folder of images, or the URL"):
        take_in([], tmp_path / "scratch", ArchiveLimits())


# folders


def test_folders_in_folders(tmp_path: Path) -> None:
    files = {"2024/may/a.png": A, "2024/may/a.txt": b"a TOK in May", "2024/a.png": B, "a.png": C, "a.txt": b"a TOK"}
    dataset = prepared([written(tmp_path / "photos", files)], tmp_path / "dataset")
    assert captions(dataset) == {
        "2024/a.png": "a photo of TOK",
        "2024/may/a.png": "a TOK in May",
        "a.png": "a TOK",
    }


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    forward = written(tmp_path / "1", {"a.png": A, "b/a.png": B, "c.png": C})
    backward = written(tmp_path / "2", {"c.png": C, "b/a.png": B, "a.png": A})
    assert names([forward], tmp_path / "3") == names([backward], tmp_path / "4") == ["a.png", "b/a.png", "c.png"]


@pytest.mark.parametrize("name", [".thumbnails/a.png", "in/.ipynb_checkpoints/a-checkpoint.png", ".a.png", "._a.png"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_hidden_is_passed_over(name: str, packed: bool, tmp_path: Path) -> None:
    files = {"a.png": A, name: B}
    source = written(tmp_path / "photos", files)
    if packed:
        source = tmp_path / "photos.zip"
        source.write_bytes(zipped(files))
    assert names([source], tmp_path / "scratch") == ["a.png"]


def test_a_hidden_folder_that_is_given_itself_is_taken(tmp_path: Path) -> None:
    assert names([written(tmp_path / ".photos", {"a.png": A})], tmp_path / "scratch") == ["a.png"]


# files that are not archives


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("photo.png", A, r"photo\.png: is neither a zip nor a tar archive\. Pack the images into a \.zip"),
        ("photos.rar", b"Rar!\x1a\x07\x01\x00 and more", r"photos\.rar: is neither a zip nor a tar"),
        ("photos.7z", b"7z\xbc\xaf\x27\x1c and more", r"photos\.7z: is neither a zip nor a tar"),
        ("photos.zip", b"<!doctype html><title>Sign in</title>", r"photos\.zip: is neither a zip nor a tar"),
        ("photos.zip", b"", r"photos\.zip: the file is empty \(0 bytes\)\. Upload it again"),
        ("photos.zip", zipped({"a.png": A})[:-30], r"photos\.zip: is neither a zip nor a tar"),
        ("photos.tar", shard({"a.txt": b"TOK"})[:1024], r"^photos\.tar: the tar is truncated or damaged: its end mark"),
        (
            "photos.zip",
            zipped({"a.png": A, "A.png": A}),
            r"^photos\.zip: [aA]\.png: the archive contains this name twice",
        ),
        ("photos.tar", shard({"a.png": A})[:700], r"photos\.tar: cannot be read \(.*\)\. Create the archive again"),
    ],
    ids=[
        "a picture",
        "rar",
        "7z",
        "a web page",
        "nothing",
        "half a zip",
        "a tar without its end",
        "a name twice",
        "half a tar",
    ],
)
def test_a_file_that_is_no_archive_says_so(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        take_in([tmp_path / name], tmp_path / "scratch", ArchiveLimits())


def test_a_path_that_does_not_exist_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.zip: does not exist\. Give a zip, a tar, or a folder"):
        take_in([tmp_path / "gone.zip"], tmp_path / "scratch", ArchiveLimits())


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.xz", "tar.bz2", "tar"])
def test_tars_of_all_compressions(suffix: str, tmp_path: Path) -> None:
    compression = {"tgz": "gz", "tar": ""}.get(suffix, suffix.rpartition(".")[2])
    with tarfile.open(tmp_path / f"photos.{suffix}", f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, data in {"x/a.png": A, "x/a.txt": b"a TOK"}.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert captions(prepared([tmp_path / f"photos.{suffix}"], tmp_path / "dataset")) == {"x/a.png": "a TOK"}


# webdataset


def samples(first: int, *data: bytes) -> dict[str, bytes]:
    """Return samples as webdataset packs them: an image and a JSON record under one key."""
    files: dict[str, bytes] = {}
    for number, content in enumerate(data, first):
        record = {"caption": f"TOK of the record {number}", "score": number}
        files |= {f"{number:04d}.jpg": content, f"{number:04d}.json": json.dumps(record).encode()}
    return files


def test_a_folder_of_shards(tmp_path: Path) -> None:
    first = samples(0, A, B) | {"0000.txt": b"TOK of the text"}
    folder = written(tmp_path / "set", {"00000.tar": shard(first), "00001.tar": shard(samples(0, C, D))})
    dataset = prepared([folder], tmp_path / "dataset", filters=["score < 1"])
    assert captions(dataset) == {
        "00000.tar/0000.jpg": "TOK of the text",
        "00001.tar/0000.jpg": "TOK of the record 0",
    }
    assert [item.source for item in dataset.rejected] == ["00000.tar/0001.jpg", "00001.tar/0001.jpg"]
    assert all("score is 1; the filter requires score < 1" in item.reason for item in dataset.rejected)


def test_shards_whose_names_differ_in_their_suffixes_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, name in enumerate(("a.tar", "a.TAR")):
        (tmp_path / "shards" / name).write_bytes(shard({"0.png": picture(seed=number)}))
    dataset = prepared([tmp_path / "shards"], tmp_path / "out")
    assert [example.source for example in dataset.examples] == ["a.TAR/0.png", "a.tar/0.png"]


def test_pictures_beside_the_shards_are_taken_too(tmp_path: Path) -> None:
    files = {"00000.tar": shard(samples(0, A)), "b.png": B, "b.txt": b"a TOK"}
    dataset = prepared([written(tmp_path / "set", files)], tmp_path / "dataset")
    assert captions(dataset) == {"00000.tar/0000.jpg": "TOK of the record 0", "b.png": "a TOK"}


def test_what_a_mac_leaves_beside_shards_is_none(tmp_path: Path) -> None:
    files = {"00000.tar": shard(samples(0, A)), "._00000.tar": b"\0\5\26\7Mac OS X", ".hidden.tar": b"x"}
    assert names([written(tmp_path / "set", files)], tmp_path / "scratch") == [
        "00000.tar/0000.jpg",
        "00000.tar/0000.json",
    ]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    files = {"00000.tar": shard(samples(0, A)), "00001.tar": b"oops"}
    with pytest.raises(DatasetError, match=r"00001\.tar: is neither a zip nor a tar archive"):
        names([written(tmp_path / "set", files)], tmp_path / "scratch")


def test_what_only_looks_like_a_shard_of_shards_is_named(tmp_path: Path) -> None:
    files = {"a.png": A, "deep/00000.tar": shard(samples(0, B))}
    dataset = prepared([written(tmp_path / "set", files)], tmp_path / "dataset")
    assert [item.source for item in dataset.rejected] == ["deep/00000.tar"]
    assert "archives inside the data are not unpacked; unpack it first" in dataset.rejected[0].reason


# tables with the line ends and separators of all systems


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"], ids=ascii)
@pytest.mark.parametrize("name", ["captions.csv", "metadata.jsonl"])
def test_line_ends_of_all_systems(name: str, ending: str, make_zip: MakeFiles, tmp_path: Path) -> None:
    rows = {
        "captions.csv": ["file,text", "a.png,a TOK", '"b.png","TOK, too"'],
        "metadata.jsonl": ['{"file_name": "a.png", "text": "a TOK"}', '{"file_name": "b.png", "text": "TOK, too"}'],
    }
    source = make_zip({"a.png": A, "b.png": B, name: ending.join(rows[name]).encode()})
    assert captions(prepared([source], tmp_path / "dataset")) == {"a.png": "a TOK", "b.png": "TOK, too"}


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0c"], ids=ascii)
def test_a_separator_of_lines_in_a_caption_ends_no_record(sign: str, make_zip: MakeFiles, tmp_path: Path) -> None:
    """Scraped captions contain them. Python's json.dumps(..., ensure_ascii=False) does not escape U+2028 and U+0085."""
    text = json.dumps({"file_name": "a.png", "text": f"a TOK{sign}on grass"}, ensure_ascii=False)
    source = make_zip({"a.png": A, "metadata.jsonl": text.encode()})
    assert captions(prepared([source], tmp_path / "dataset")) == {"a.png": "a TOK on grass"}


# URLs


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder without log lines."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Yields a folder, and the URL at which a local server serves it."""
    monkeypatch.setenv("FETCH_ALLOW_HTTP", "1")
    monkeypatch.setenv("FETCH_ALLOW_PRIVATE_ADDRESSES", "1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "path",
    ["photos.zip", "photos.zip?token=secret", "files", "my%20photos.zip", "v1/download", "n" * 250],
    ids=["zip", "query", "called files", "escaped", "no suffix", "long"],
)
def test_a_url_of_a_zip(path: str, served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    target = folder / path.partition("?")[0].replace("%20", " ")
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(zipped({"a.png": A, "a.txt": b"a TOK"}))
    assert captions(prepared([f"{address}/{path}"], tmp_path / "dataset")) == {"a.png": "a TOK"}


def test_a_url_of_a_tar_beside_a_folder(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    (folder / "set.tar").write_bytes(shard(samples(0, A)))
    sources: list[str | Path] = [written(tmp_path / "photos", {"a.png": B}), f"{address}/set.tar?token=secret"]
    assert captions(prepared(sources, tmp_path / "dataset")) == {
        "photos/a.png": "a photo of TOK",
        "set.tar/0000.jpg": "TOK of the record 0",
    }


def test_a_url_of_nothing_tells_the_answer_and_no_secret(served: tuple[Path, str], tmp_path: Path) -> None:
    _, address = served
    with pytest.raises(DatasetError) as error:
        prepared([f"{address}/gone.zip?token=secret"], tmp_path / "dataset")
    assert "/gone.zip: the server answered 404. Check the URL, or download the file" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_download_that_is_too_large_is_an_error(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    (folder / "photos.zip").write_bytes(zipped({"a.png": A, "b.png": bytes(5000)}))
    with pytest.raises(DatasetError, match=r"photos\.zip: is larger than 4,000 bytes\. .*increase max_archive_bytes"):
        prepared([f"{address}/photos.zip"], tmp_path / "dataset", max_archive_bytes=4000)


def test_a_server_that_is_not_there_is_an_error(served: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"127\.0\.0\.1: cannot be reached \(ConnectionRefusedError: .*\)\. Check the URL"
    ):
        prepared(["http://127.0.0.1:9/photos.zip"], tmp_path / "dataset")


def test_a_url_of_a_web_page_says_what_it_is_not(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    (folder / "share").write_text("<!doctype html><title>Sign in to see the photos</title>")
    with pytest.raises(DatasetError, match=r"share: is neither a zip nor a tar archive"):
        prepared([f"{address}/share"], tmp_path / "dataset")


def test_a_data_uri(tmp_path: Path) -> None:
    uris = ["data:application/zip;base64," + base64.b64encode(zipped({"a.png": data})).decode() for data in (A, B)]
    assert list(captions(prepared([uris[0]], tmp_path / "1"))) == ["a.png"]
    assert list(captions(prepared(list(uris), tmp_path / "2"))) == ["data URI/a.png", "data URI (2)/a.png"]
    with pytest.raises(DatasetError, match="data URI: its base64 is damaged"):
        prepared(["data:application/zip;base64,!!!"], tmp_path / "3")


def test_zips_of_other_programs(tmp_path: Path) -> None:
    """The zip has UTF-8 names, an entry for a folder, a comment, deflated members, and a caption in UTF-16."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"made by hand"
        archive.writestr(zipfile.ZipInfo("photos/"), b"")
        archive.writestr("photos/Größe.png", A)
        archive.writestr("photos/Größe.txt", "a TOK".encode("utf-16"))
    assert captions(prepared([path], tmp_path / "dataset")) == {"photos/Größe.png": "a TOK"}
