"""Tests of LoRAs from files, URLs and the hub, and of the cache of downloads."""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.metadata import ArtifactDescription
from fetching.cache import DownloadCache
from fetching.download import Download
from fetching.errors import DownloadError
from sampler.weights import ScaledArtifact, parse_list, parse_scales, read_weights, recommended, rescaled
from tests.local_site import Hub, Site, use_hub

LORA = save({"a.lora_down.weight": torch.ones(2, 3), "a.lora_up.weight": torch.ones(3, 2)})
OTHER = save({"b.lora_down.weight": torch.ones(2, 3), "b.lora_up.weight": torch.ones(3, 2)})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty cache, and allow downloads from this machine."""
    for name, value in {
        "WEIGHTS_CACHE": str(tmp_path / "cache"), "FETCH_ALLOW_HTTP": "1", "FETCH_ALLOW_PRIVATE_ADDRESSES": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    started = Hub()
    use_hub(started, monkeypatch)
    yield started
    started.server.shutdown()
    started.server.server_close()


def names(weights: str, *, local_files: bool = False) -> list[str]:
    return [next(iter(lora.artifact.layers)) for lora in read_weights(weights, "1", local_files=local_files)]


def test_a_url_is_fetched_once(hub: Site) -> None:
    hub.serve("/api/download/models/5", LORA, {"Content-Disposition": 'attachment; filename="my style.safetensors"'})
    for _ in range(2):
        (lora,) = read_weights(f"{hub.url}/api/download/models/5?token=secret", "0.5", local_files=False)
        assert (list(lora.artifact.layers), lora.scale) == (["a"], 0.5)
        assert "secret" not in repr(lora.name)
    assert len(hub.seen) == 1


def test_an_error_calls_the_file_what_its_server_calls_it(hub: Site, cache: Path) -> None:
    hub.serve("/api/download/models/5", b"PK..", {"Content-Disposition": 'attachment; filename="my style.zip"'})
    with pytest.raises(ArtifactError, match=r"my style\.zip: not a readable \.safetensors file"):
        names(f"{hub.url}/api/download/models/5")
    with pytest.raises(DownloadError, match="the server answered 404"):
        names(f"{hub.url}/gone")
    assert not list(cache.glob(".unfinished*"))


@pytest.mark.parametrize(
    ("reference", "layer"),
    [("me/one", "a"), ("me/two", "b"), ("me/many/sub/x.safetensors", "a"), ("me/one/any.safetensors@main", "a")],
)
def test_a_hub_id(reference: str, layer: str, hub: Hub) -> None:
    hub.add("me/one", {"any.safetensors": LORA, "README.md": b"#"})
    hub.add("me/two", {"pytorch_lora_weights.safetensors": OTHER, "other.safetensors": LORA})
    hub.add("me/many", {"sub/x.safetensors": LORA, "sub/y.safetensors": OTHER})
    hub.answers["/api/models/me/one/revision/main"] = hub.answers["/api/models/me/one"]
    for _ in range(2):
        assert names(reference) == [layer]
    assert sum("/resolve/" in path for path, _ in hub.seen) <= 2  # HEAD and GET, once


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("me/many", r"name one of its files; its \.safetensors files: x\.safetensors, y\.safetensors"),
        ("me/many/z.safetensors", r"it has no z\.safetensors"),
        ("me/absent", r"the hub answered 404; if the repository is private or gated, set HF_TOKEN"),
        ("me/empty", r"\.safetensors files: none"),
        ("me/false", "was damaged during the download"),
    ],
)
def test_hub_ids_of_nothing(reference: str, message: str, hub: Hub) -> None:
    hub.add("me/many", {"x.safetensors": LORA, "y.safetensors": OTHER})
    hub.add("me/empty", {"model.bin": b"x"})
    hub.add("me/false", {"x.safetensors": LORA}, claims={"x.safetensors": OTHER})
    with pytest.raises(DownloadError, match=message):
        names(reference)


def test_the_list_of_hosts_is_the_hub_s_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCH_ALLOWED_HOSTS", "example.org")
    with pytest.raises(DownloadError, match="FETCH_ALLOWED_HOSTS"):
        names("me/one")
    assert not hub.seen


def test_paths_are_for_those_who_own_the_disk(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a,b.safetensors").write_bytes(LORA)
    (tmp_path / "c.safetensors").write_bytes(OTHER)
    first, second = str(tmp_path / "a,b.safetensors"), str(tmp_path / "c.safetensors")
    assert names(first, local_files=True) == ["a"]
    assert names(f"{second}\n{second}", local_files=True) == ["b", "b"]
    with pytest.raises(ArtifactError, match="neither an upload, nor a URL, nor a hub id"):
        names(second)
    with pytest.raises(ArtifactError, match="does not exist"):
        names(str(tmp_path / "gone.safetensors"), local_files=True)


def test_lists() -> None:
    assert parse_list(" a/b, c/d\n\ne/f ", local_files=False) == ["a/b", "c/d", "e/f"]
    assert parse_list("data:a/b;base64,AAAA,data:;base64,BBBB", local_files=False) == [
        "data:a/b;base64,AAAA", "data:;base64,BBBB",
    ]  # fmt: skip
    assert parse_list('["a, b", "c"]', local_files=False) == ["a, b", "c"]
    assert parse_list("", local_files=False) == []
    for wrong in ("[1]", "[", '["a", ""]'):
        for local_files, name in ((False, "lora"), (True, "weights")):
            with pytest.raises(ArtifactError, match=f"^{name}: "):
                parse_list(wrong, local_files=local_files)
    assert parse_scales("0.5", 3) == [0.5] * 3
    assert parse_scales("[0.5, -1]", 2) == parse_scales("0.5\n-1", 2) == [0.5, -1.0]
    assert parse_scales(1.0, 0) == []
    for scales, message in (
        ("1,2", "2 scales for 3"),
        ("x", "neither a number"),
        ("nan", "between"),
        ("11", "between"),
    ):
        with pytest.raises(ArtifactError, match=message):
            parse_scales(scales, 3)


# The cache


def fetching(data: bytes, log: list[bytes] | None = None) -> object:
    def fetch(folder: Path) -> Download:
        (folder / "download").write_bytes(data)
        if log is not None:
            log.append(data)
        return Download(folder / "download", "lora.safetensors", hashlib.sha256(data).hexdigest())

    return fetch


def kept(cache: DownloadCache) -> set[str]:
    return {path.read_text()[:1] for path in cache.folder.glob("*/lora.safetensors")}


def put(cache: DownloadCache, key: str) -> None:
    with cache.using(key, fetching(key.encode() * 100)) as path:  # type: ignore[arg-type]
        assert path.read_text() == key * 100
    for age, entry in enumerate(sorted(cache.folder.glob("[!.]*"), key=lambda entry: -entry.stat().st_mtime)):
        os.utime(entry, (10**9 - age, 10**9 - age))  # the file system's times may be too coarse


def test_the_longest_unused_goes_first_and_never_one_in_use(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path, 700)
    for key in ("a", "b", "c"):
        put(cache, key)
    put(cache, "a")  # used again
    put(cache, "d")
    assert kept(cache) == {"a", "c", "d"}
    with cache.using("c", fetching(b"")) as path:  # type: ignore[arg-type]
        for key in ("e", "f", "g", "h"):
            put(cache, key)
        assert path.read_text() == "c" * 100
    assert "c" in kept(cache) and len(kept(cache)) == 3


def test_without_room_nothing_stays(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path, 0)
    put(cache, "a")
    assert kept(cache) == set()


def test_a_file_that_changed_is_fetched_anew(tmp_path: Path) -> None:
    cache, log = DownloadCache(tmp_path, 10**6), list[bytes]()
    for damage in (False, True, False):
        with cache.using("key", fetching(b"good", log)) as path:  # type: ignore[arg-type]
            assert path.read_bytes() == b"good"
        if damage:
            path.write_bytes(b"evil")
    assert len(log) == 2


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path, 10**6)

    def fail(folder: Path) -> Download:
        (folder / "half").write_bytes(b"x")
        raise DownloadError("broken off")

    with pytest.raises(DownloadError), cache.using("key", fail):
        raise AssertionError("never here")
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path, 10**6)

    def unfinished() -> list[Path]:
        return list(tmp_path.glob(".unfinished-*"))

    def half(folder: Path) -> Download:
        (folder / "half").write_bytes(b"x")
        put(cache, "b")  # another process, meanwhile
        assert unfinished() == [folder]
        shutil.copytree(folder, tmp_path / "copy")
        raise DownloadError("broken off")

    with pytest.raises(DownloadError), cache.using("a", half):
        raise AssertionError("never here")
    entry = hashlib.sha256(b"a").hexdigest()[:32]
    for key in ("b", "a"):
        shutil.copytree(tmp_path / "copy", tmp_path / f".unfinished-{entry}")
        put(cache, key)
        assert unfinished() == []


@pytest.mark.parametrize("reason", ["Not a directory", "No space left on device"])
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    if reason == "Not a directory":
        tmp_path.joinpath("file").touch()
        folder = tmp_path / "file" / "cache"

    def fill_the_disk(_: Path) -> Download:
        raise OSError(errno.ENOSPC, reason)

    cache, message = DownloadCache(folder, 10**6), rf"cache: .*{reason}.*WEIGHTS_CACHE"
    with pytest.raises(DownloadError, match=message), cache.using("key", fill_the_disk):
        raise AssertionError("never here")


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    cache, log, found = DownloadCache(tmp_path, 10**6), list[bytes](), list[bytes]()

    def use() -> None:
        with cache.using("key", fetching(b"good", log)) as path:  # type: ignore[arg-type]
            found.append(path.read_bytes())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (log, found) == ([b"good"], [b"good"] * 4)


def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS_CACHE_BYTES", "much")
    with pytest.raises(DownloadError, match="WEIGHTS_CACHE_BYTES"):
        DownloadCache.from_environment()


def test_a_lora_recommends_its_own_scale(tmp_path: Path) -> None:
    (tmp_path / "foreign.safetensors").write_bytes(LORA)
    foreign = Artifact.read(tmp_path / "foreign.safetensors")
    ours = replace(foreign, description=ArtifactDescription("sdxl", "b", "f", "epsilon", {}, 1, recommended_scale=0.7))
    assert parse_scales("recommended", 2) == [None, None]
    assert parse_scales("recommended, 0.5", 2) == [None, 0.5]
    assert (recommended(ours), recommended(foreign)) == (0.7, 1.0)
    scaled = [ScaledArtifact(ours, 1.0, "a"), ScaledArtifact(foreign, 1.0, "b")]
    assert [one.scale for one in rescaled(scaled, "recommended")] == [0.7, 1.0]
    assert [one.scale for one in rescaled(scaled, "0.5, recommended")] == [0.5, 1.0]
    (lora,) = read_weights(str(tmp_path / "foreign.safetensors"), "recommended", local_files=True)
    assert lora.scale == 1.0
