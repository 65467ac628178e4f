"""Tests of attacks on the service: each is refused soon, with a reason and little memory, and the service continues.

Attacks on single parts are tested with them: tests/fetching (addresses, redirects, names whose address changes, slow
servers), tests/preprocess/uploads (archives), tests/sampler/test_hostile_weights.py,
tests/settings/test_hostile_settings.py, tests/trainer/patterns/test_matching.py, tests/pages/test_hostile_text.py,
tests/service/policy.
"""

import io
import os
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from fetching.errors import DownloadError
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from preprocess.uploads.archive import ArchiveLimits, require_safe, unpack
from sampler.weights import read_weights
from settings.preparation import DataConfig
from settings.record import build_settings
from tests.conftest import EXAMPLE, png
from tests.service.cog_server import CogServer, data_uri
from tests.settings.test_hostile_settings import HOSTILE
from tests.trainer.patterns.test_matching import ENDLESS

INSIDE = (
    "https://127.0.0.1/x.safetensors",
    "https://localhost/x.safetensors",
    "https://[::1]/x.safetensors",
    "https://169.254.169.254/latest/meta-data",
    "https://[::ffff:169.254.169.254]/x",
    "https://[::ffff:10.0.0.1]/x",
    "https://[64:ff9b::7f00:1]/x",
    "https://2130706433/x",
    "https://user:password@127.0.0.1/x",
)
OTHER_SCHEMES = ("http://example.com/x", "file:///etc/passwd", "ftp://example.com/x", "gopher://127.0.0.1/x")
TRAVERSAL = "../../../evil"


@pytest.mark.parametrize("url", INSIDE)
def test_no_url_input_leads_inside(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not an address of the public internet"):
        read_weights(url, "1", local_files=False)
    with pytest.raises(DatasetError, match="not an address of the public internet"):
        prepare([url], build_settings(DataConfig, {}), tmp_path / "out")


@pytest.mark.parametrize("url", OTHER_SCHEMES)
def test_no_url_input_has_another_scheme(url: str) -> None:
    with pytest.raises((DownloadError, ArtifactError), match="only https|neither an upload, nor a URL, nor a hub id"):
        read_weights(url, "1", local_files=False)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.safetensors", "~root/x", "~unknown-user/x", "x" * 5000, "a\0b"])
def test_no_name_of_a_lora_opens_a_file_of_the_disk(name: str) -> None:
    with pytest.raises(ArtifactError, match="neither an upload, nor a URL, nor a hub id"):
        read_weights(name, "1", local_files=False)


def test_a_header_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((100_000_000).to_bytes(8, "little") + b"{")
        file.truncate(100_000_100)
    begun = time.process_time()
    with pytest.raises(ArtifactError, match="the header has 100,000,000 bytes; that of a LoRA has at most"):
        Artifact.read(path)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("word", [TRAVERSAL, "..tok", "/etc/passwd", "a/b", "CON", "x" * 64])
def test_no_trigger_word_becomes_a_path(word: str, tmp_path: Path) -> None:
    config = build_settings(DataConfig, {"trigger_word": word, "captioner": "none", "resolution": 64})
    prepare([EXAMPLE], config, tmp_path / "deep" / "er" / "out")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all((tmp_path / "deep" / "er" / "out") in path.parents for path in written)
    assert not any(word in path.name for path in written)


def zip_with_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("photo.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return path


def zip_with_traversal(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{TRAVERSAL}.png", png())
    return path


def tar_with_link(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("folder")
        link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(link)
        info = tarfile.TarInfo("folder/evil.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    return path


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo.png", bytes(150_000_000))
    return path


ARCHIVES: dict[Callable[[Path], Path], str] = {
    zip_with_link: "a symbolic link",
    zip_with_traversal: "is an absolute path or contains ..",
    tar_with_link: "a link or device",
    bomb: "an archive bomb",
}


@pytest.mark.parametrize("make", ARCHIVES, ids=lambda make: make.__name__)
def test_archives(make: Callable[[Path], Path], tmp_path: Path) -> None:
    upload = make(tmp_path / "upload")
    with pytest.raises(DatasetError, match=ARCHIVES[make]):
        require_safe(upload, ArchiveLimits())
    assert list(tmp_path.iterdir()) == [upload]
    with pytest.raises(DatasetError, match=ARCHIVES[make]):
        unpack(upload, tmp_path / "deep" / "er" / "out")
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_a_folder_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.png").write_bytes(png())
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "own.png").write_bytes(png((90, 90)))
    (photos / "folder").symlink_to(outside)
    (photos / "gone.png").symlink_to(tmp_path / "nothing")
    config = build_settings(DataConfig, {"captioner": "none", "resolution": 64})
    dataset = prepare([photos], config, tmp_path / "out")
    assert [example.source for example in dataset.examples] == ["own.png"]
    assert {one.source for one in dataset.rejected} == {"folder", "gone.png"}


# through the real server

SECONDS = 5.0
MEMORY = 1024**3
QUICK: dict[str, Any] = {
    "base_model": "mini-sdxl", "max_train_steps": 1, "rank": 2, "class_word": "figure", "captioner": "none",
}  # fmt: skip


class Memory:
    """Peak memory of a process and its descendants, measured ten times per second."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._process, self._ended = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            held = 0
            for process in (self._process, *self._process.children(recursive=True)):
                try:
                    held += process.memory_full_info().uss
                except psutil.Error:  # the process has ended
                    continue
            self.peak = max(self.peak, held)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    folder = tmp_path_factory.mktemp("attacks")
    with CogServer("train", folder / "server.log", {"OUTPUTS_FOLDER": str(folder / "jobs")}) as started:
        yield started


def slowness() -> float:
    """Number of runnable processes per CPU, to scale time limits on a busy machine."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def refusal(server: CogServer, inputs: dict[str, Any]) -> str:
    """Return why the server refuses `inputs`. Checks that it takes little time and memory, and is then ready again."""
    begun = time.monotonic()
    with Memory(server.pid) as memory:
        result = server.post("trainings", {**QUICK, "input_images": data_uri(EXAMPLE, "application/zip"), **inputs})
    assert result["status"] == "failed"
    assert time.monotonic() - begun < SECONDS * slowness()
    assert memory.peak < MEMORY
    server.wait_until_ready(5 * slowness())
    return str(result["error"])


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_settings_at_the_server(text: str, server: CogServer) -> None:
    assert len(refusal(server, {"config": text})) < 20_000


EXPRESSIONS = {
    "layers, backtracking": r"lora_target_regex: '(?:(?:\w|\.|\w\w)+)+[^\w.]'",
    "layers, groups": f"lora_target_regex: '{ENDLESS['a hundred groups']}'",
    "words, backtracking": r"{token_init: vocabulary, token_init_pattern: '(?:(?:(?:\w|\w\w|\w\w\w)+)+)+[^\w<]'}",
}


@pytest.mark.slow
@pytest.mark.parametrize("config", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_expressions_at_the_server(config: str, server: CogServer) -> None:
    assert "takes too long" in refusal(server, {"config": config})


@pytest.mark.slow
@pytest.mark.parametrize("make", ARCHIVES, ids=lambda make: make.__name__)
def test_archives_at_the_server(make: Callable[[Path], Path], server: CogServer, tmp_path: Path) -> None:
    upload = {"input_images": data_uri(make(tmp_path / "upload"), "application/zip")}
    assert ARCHIVES[make] in refusal(server, upload)


@pytest.mark.slow
def test_a_body_of_a_gigabyte_is_cut_off(server: CogServer) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"input": {"input_images": "data:application/zip;base64,'
        for _ in range(1024):
            yield b"A" * 1024**2
        yield b'"}}'

    begun = time.monotonic()
    with Memory(server.pid) as memory:
        try:
            answer = requests.post(f"{server.url}/trainings", data=body(), timeout=60,
                                   headers={"Content-Type": "application/json"})  # fmt: skip
            assert answer.status_code == 413
        except requests.ConnectionError:  # the server closes the connection before the whole body is sent
            pass
    assert time.monotonic() - begun < SECONDS * slowness() and memory.peak < MEMORY
    assert server.status() == "READY"
