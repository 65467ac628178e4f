"""Runs a command in a child process, reads its output line by line, and stops it with all its descendants."""

import math
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol, Self

import psutil

PROJECT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.1
SECONDS_TO_SAVE = 3.5
END_OF_OUTPUT = None


class RunningProcess(Protocol):
    """A started process: subprocess.Popen, or a forked process (service.processes.warm_worker)."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Return the exit status, None while it runs; negative for the signal that killed it."""

    def wait(self) -> int:
        """Return the exit status when it has ended."""


class ChildProcess:
    """A process that leads its own session, read line by line with short timeouts."""

    def __init__(self, process: RunningProcess, output: IO[str]) -> None:
        """`output`: the end of a pipe to which it writes stdout and stderr."""
        self._process, self._output = process, output
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, command: list[str], environment: Mapping[str, str] | None = None) -> Self:
        """Run a command. `environment`: None inherits this process's."""
        process = subprocess.Popen(
            command,
            env=None if environment is None else dict(environment),
            cwd=PROJECT,
            start_new_session=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        return cls(process, process.stdout)

    def lines(self, seconds: float = math.inf) -> Iterator[str]:
        """Yield every line of stdout and stderr until the process ends. Polls, so that a cancellation can interrupt.

        Raises TimeoutError after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            if time.monotonic() >= deadline:
                raise TimeoutError
            try:
                line = self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if line is END_OF_OUTPUT:
                return
            yield line

    def exit_status(self) -> int:
        """Return the exit status; negative for the signal that killed the process."""
        return self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM, so that the process can save; kill it and its descendants after a timeout."""
        deadline = time.monotonic() + SECONDS_TO_SAVE
        started = self._descendants()  # a launcher's children have their own sessions
        self._signal(signal.SIGTERM)
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._signal(signal.SIGKILL)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _read(self) -> None:
        for line in self._output:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(END_OF_OUTPUT)
