"""Runs a script or module of the project in a separate process that has already imported the large libraries.

The process is forked from one that has imported them, which saves the seconds that a new Python needs for this. It
shares nothing with the test, so it behaves like `python …` except for the time of its start.
"""

import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "job.run", "sampler.generation")
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload([*LIBRARIES])
SECONDS = 240.0


class WarmProcess:
    """`words`: the command after `python`. `environment`: variables that are changed."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.words = list(words)
        self._own = TemporaryDirectory()
        self._files = [Path(self._own.name) / name for name in ("stdout", "stderr")]
        arguments = (self.words, str(folder), dict(environment or {}), *map(str, self._files))
        self._process: ForkServerProcess = CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    def wait_for(self, text: str, seconds: float = SECONDS) -> None:
        """Wait until stdout contains `text`. Fails with stderr if the process ends before."""
        end = time.monotonic() + seconds
        while text not in self._read()[0]:
            assert self._process.exitcode is None, self._read()[1]
            assert time.monotonic() < end, f"{text!r} is not said within {seconds} seconds"
            time.sleep(0.02)

    def send(self, signal: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal)

    def result(self, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Wait for the end of the process and return its result. Raises TimeoutError after `seconds`."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"{' '.join(self.words)} took longer than {seconds} seconds")
        out, err = self._read()
        self._own.cleanup()
        return subprocess.CompletedProcess(self.words, self._process.exitcode, out, err)

    def _read(self) -> list[str]:
        return [file.read_text(encoding="utf-8") if file.exists() else "" for file in self._files]


def run_warm(
    words: Sequence[str], folder: Path, seconds: float = SECONDS, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its result. Raises TimeoutError after `seconds`."""
    return WarmProcess(words, folder, environment).result(seconds)


def run_group(words: Sequence[str], folder: Path, count: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run the same command in `count` processes of one group, which connect as those of torchrun do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
             "LOCAL_WORLD_SIZE": str(count)}  # fmt: skip
    ranks = ({**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
    processes = [WarmProcess(words, folder, environment) for environment in ranks]
    return [process.result() for process in processes]


def _run(words: list[str], folder: str, environment: Mapping[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.update(environment)
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        sys.path.insert(0, folder)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
