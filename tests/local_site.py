"""Servers of this machine that stand in for those of the internet."""

import hashlib
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class Site:
    """A server of this machine. `answers`: by path, a function that handles the request. `seen`: what was asked."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                if path not in site.answers:
                    self.send_error(404)
                else:
                    site.answers[path](self)

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                request.send_header(name, value)
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(body)

        self.answers[path] = answer

    def redirect(self, path: str, location: str) -> None:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", location)
            request.send_header("Content-Length", "0")
            request.end_headers()

        self.answers[path] = answer


class Hub(Site):
    """Stands in for the Hugging Face hub: repositories of one commit."""

    COMMIT = "c" * 40

    def add(self, repository: str, files: dict[str, bytes], claims: dict[str, bytes] | None = None) -> None:
        """`claims`: contents that the hub says its files have, where they differ from what it serves."""
        siblings = []
        for name, data in files.items():
            stated = (claims or {}).get(name, data)
            digest = hashlib.sha256(stated).hexdigest()
            lfs = {"sha256": digest, "size": len(stated), "pointerSize": 100}
            siblings.append({"rfilename": name, "size": len(stated), "lfs": lfs})
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": self.COMMIT}
            self.serve(f"/{repository}/resolve/{self.COMMIT}/{name}", data, headers)
        answer = json.dumps({"id": repository, "sha": self.COMMIT, "siblings": siblings}).encode()
        self.serve(f"/api/models/{repository}", answer, {"Content-Type": "application/json"})


def use_hub(hub: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub ask this server."""
    constants: Any = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
