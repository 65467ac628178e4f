"""Runs a command beside the server, reads it line by line, and stops it with all its child processes."""

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

import psutil

PROJECT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.1
SECONDS_TO_SAVE = 3.5
END_OF_OUTPUT = None


class ChildProcess:
    """A command in its own session, read line by line with short timeouts."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """`environment`: None inherits this process's."""
        self._process = subprocess.Popen(
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
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
        started = self._descendants()  # a launcher's children are in sessions of their own
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
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(END_OF_OUTPUT)
