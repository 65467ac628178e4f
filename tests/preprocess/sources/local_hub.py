"""A local server that stands in for the hub's datasets: repositories with one commit."""

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import datasets
import fsspec
import huggingface_hub
import pytest

from tests.local_site import Site

COMMIT = "d" * 40


class DatasetHub(Site):
    """Answers the requests that `datasets` sends to the hub. `down`: whether downloads of files fail with 404."""

    down = False

    def add(self, repository: str, files: Mapping[str, bytes]) -> None:
        api = f"/api/datasets/{repository}"
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in files.items()
        ]
        folders = sorted({name.rpartition("/")[0] for name in files if "/" in name})
        entries += [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders]
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        info = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        for path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            self._json(path, info)
        for revision in ("main", COMMIT):
            if "data" not in folders:  # `datasets` requests this folder first
                self.answers[f"{api}/tree/{revision}/data"] = self._missing
            for folder in ("", *folders):
                inside = [each for each in entries if each["path"].startswith(f"{folder}/" if folder else "")]
                self._json(f"{api}/tree/{revision}{f'/{folder}' if folder else ''}", inside)
            self.answers[f"{api}/paths-info/{revision}"] = lambda request: self._paths(request, entries)
            for name, data in files.items():
                path = f"/datasets/{repository}/resolve/{revision}/{name}"
                self.answers[path] = partial(self._file, data)
            for name in {"README.md", ".huggingface.yaml", "dataset_infos.json"} - files.keys():
                self.answers[f"/datasets/{repository}/resolve/{revision}/{name}"] = self._missing

    def _json(self, path: str, content: object) -> None:
        self.serve(path, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(404)
        request.send_header("X-Error-Code", "EntryNotFound")
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _paths(self, request: BaseHTTPRequestHandler, entries: list[dict[str, Any]]) -> None:
        text = request.rfile.read(int(request.headers["Content-Length"])).decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        body = json.dumps([each for each in entries if each["path"] in wanted]).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _file(self, data: bytes, request: BaseHTTPRequestHandler) -> None:
        if self.down and request.command == "GET":
            request.send_error(404)
            return
        asked = request.headers.get("Range")
        first, last = asked.removeprefix("bytes=").split("-") if asked else ("0", "")
        part = data[int(first) : int(last) + 1 if last else None]
        request.send_response(206 if asked else 200)
        headers = {"Content-Length": len(part), "ETag": '"x"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        for name, value in headers.items():
            request.send_header(name, str(value))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(part)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DatasetHub]:
    """Yields a hub to which the libraries send their requests. Their caches are in the test's folder."""
    site = DatasetHub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", site.url)
    template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", site.url)
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setattr(datasets.config, name, str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    for name in ("STREAMING_READ_RETRY_INTERVAL", "STREAMING_OPEN_RETRY_INTERVAL"):
        monkeypatch.setattr(datasets.config, name, 0.01)
    fsspec.get_filesystem_class("hf").clear_instance_cache()
    yield site
    site.server.shutdown()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
