"""Runs the real Cog server as its container does, but without a container."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.conftest import PROJECT

START_SECONDS = 120


class CogServer:
    """`mode`: "train" serves train.py, "predict" serves predict.py. `environment`: additional variables."""

    def __init__(self, mode: str, log: Path, environment: dict[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log.open("w")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # the worker runs PATH's python
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1", "--x-mode", mode],
            cwd=PROJECT,
            start_new_session=True,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PATH": path,
                "PORT": str(port),
                "COG_TRAIN_TYPE_STUB": "train.py:Trainer",
                "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
                **(environment or {}),
            },
        )

    def __enter__(self) -> "CogServer":
        self.wait_until_ready(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def status(self) -> str:
        """Return STARTING, READY, BUSY …; "DOWN" while nothing listens."""
        try:
            return str(requests.get(f"{self.url}/health-check", timeout=5).json()["status"])
        except requests.ConnectionError:
            return "DOWN"

    def wait_until_ready(self, seconds: float) -> float:
        """Wait until the server is READY, and return the seconds that it took. Fails after `seconds`."""
        begun = time.monotonic()
        while (status := self.status()) != "READY":
            assert status not in ("SETUP_FAILED", "UNHEALTHY", "DEFUNCT"), status
            assert time.monotonic() - begun < seconds, f"{status} after {seconds} s"
            time.sleep(0.1)
        return time.monotonic() - begun

    def post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its result."""
        deadline = time.monotonic() + 10
        while True:
            answer = requests.post(f"{self.url}/{route}", json={"input": body}, timeout=300)
            if answer.status_code != 409 or time.monotonic() > deadline:
                result: dict[str, Any] = answer.json()
                return result
            time.sleep(0.1)  # the answer of a request is sent shortly before its slot is free again

    def put(self, route: str, body: dict[str, Any]) -> requests.Response:
        """Start a request under the id in `route`, or query its state. Returns at once."""
        return requests.put(
            f"{self.url}/{route}", json={"input": body}, headers={"Prefer": "respond-async"}, timeout=30
        )

    def cancel(self, route: str) -> None:
        """Cancel a request."""
        assert requests.post(f"{self.url}/{route}/cancel", timeout=30).status_code == 200


def data_uri(path: Path, kind: str = "application/octet-stream") -> str:
    """Return a file as Cog's clients send it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def decode(uri: str) -> bytes:
    """Return the bytes of a file that the server has returned."""
    return base64.b64decode(uri.partition(",")[2])
