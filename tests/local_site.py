"""Local servers that stand in for servers of the internet."""

import base64
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
    """A local server. `answers`: functions that handle requests, by path. `seen`: paths and headers of all requests."""

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
        """Add a repository. `claims`: contents whose size and digest the hub reports, if it serves other contents."""
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


class PublishingHub(Hub):
    """Accepts commits. `committed`: the files of each repository. `created`: the requests to create repositories."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.created: dict[str, dict[str, Any]] = {}
        self.committed: dict[str, dict[str, bytes]] = {}
        self._token = token
        self.answers["/api/whoami-v2"] = lambda request: self._reply(request, {"name": "me"})
        self.answers["/api/validate-yaml"] = lambda request: self._reply(request, {"errors": [], "warnings": []})
        self.answers["/api/repos/create"] = self._create

    def _create(self, request: BaseHTTPRequestHandler) -> None:
        asked = json.loads(self._body(request))
        repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
        self.created[repository] = asked
        self.committed[repository] = {}
        self.answers[f"/api/models/{repository}/preupload/main"] = self._preupload
        self.answers[f"/api/models/{repository}/commit/main"] = lambda request: self._commit(request, repository)
        self._reply(request, {"url": f"{self.url}/{repository}", "name": repository, "id": repository})

    def _preupload(self, request: BaseHTTPRequestHandler) -> None:
        files = json.loads(self._body(request))["files"]
        modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
        self._reply(request, {"files": modes})

    def _commit(self, request: BaseHTTPRequestHandler, repository: str) -> None:
        for line in self._body(request).splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.committed[repository][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        address = f"{self.url}/{repository}/commit/{self.COMMIT}"
        self._reply(request, {"commitOid": self.COMMIT, "commitUrl": address})

    def _body(self, request: BaseHTTPRequestHandler) -> bytes:
        return request.rfile.read(int(request.headers["Content-Length"]))

    def _reply(self, request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
        allowed = request.headers.get("Authorization") == f"Bearer {self._token}"
        body = json.dumps(answer if allowed or request.path == "/api/validate-yaml" else {"error": "no"}).encode()
        request.send_response(200 if allowed or request.path == "/api/validate-yaml" else 401)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


def use_hub(hub: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub use this server."""
    constants: Any = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
