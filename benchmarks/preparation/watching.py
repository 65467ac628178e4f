"""Monitors a command from outside: its output lines, and memory and CPU time of its processes; can also kill it."""

import os
import subprocess
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.preparation.data import MEGABYTE

WATCHED_EVERY = 0.5
"""Seconds."""
DONE = " files not used"
"""Part of every line that reports a finished shard."""
ENCODER_TITLES = ("ray::MapWorker", "encode")
"""Part of the command lines of processes that encode; the others are Ray's servers."""


@dataclass(frozen=True)
class Moment:
    """`seconds` after the start. `memory`: of the largest encoding process, in MB. `cpu`: CPU seconds of all processes
    so far, `of_servers`: of those that do not encode. `load`: of the machine, runnable threads, mean of the last
    minute."""

    seconds: float
    memory: float
    cpu: float
    load: float
    of_servers: float = 0.0


@dataclass
class Watch:
    """One run of a command. `lines`: seconds after the start of each shard's line."""

    lines: list[float] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    seconds: float = 0.0

    def peak(self, start: float, end: float) -> float:
        """Largest memory in MB between two times in seconds; 0 if none was measured."""
        return max((each.memory for each in self.moments if start <= each.seconds <= end), default=0.0)

    def cpu(self, start: float, end: float) -> float:
        """CPU seconds of all processes between two times in seconds."""
        return self._until(end, "cpu") - self._until(start, "cpu")

    def of_servers(self, start: float, end: float) -> float:
        """CPU seconds of the processes that do not encode."""
        return self._until(end, "of_servers") - self._until(start, "of_servers")

    def load(self) -> float:
        """Mean load of the machine, this command included."""
        return sum(each.load for each in self.moments) / max(len(self.moments), 1)

    def _until(self, seconds: float, name: str) -> float:
        """Linear interpolation between the moments before and after."""
        place = bisect_right([each.seconds for each in self.moments], seconds)
        before = self.moments[place - 1] if place else Moment(0.0, 0.0, 0.0, 0.0)
        if place == len(self.moments):
            return float(getattr(before, name))
        after = self.moments[place]
        share = (seconds - before.seconds) / max(after.seconds - before.seconds, 1e-9)
        return float(getattr(before, name) + share * (getattr(after, name) - getattr(before, name)))


def watched(command: Sequence[str], kill_after: int | None = None) -> Watch:
    """Run the command to its end, or kill all its processes (SIGKILL) when `kill_after` shards are finished and the
    next one is half finished, estimated from the time of the previous ones. Raises CalledProcessError."""
    watch, start = Watch(), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, watch, start, over))
        watcher.start()
        assert process.stdout is not None
        for line in process.stdout:
            if DONE not in line:
                continue
            watch.lines.append(time.perf_counter() - start)
            if len(watch.lines) == kill_after:
                time.sleep((watch.lines[-1] - watch.lines[0]) / max(len(watch.lines) - 1, 1) / 2)
                _kill_all(process.pid)
                break
        status = process.wait()
        over.set()
        watcher.join()
    watch.seconds = time.perf_counter() - start
    if status and kill_after is None:
        raise subprocess.CalledProcessError(status, command)
    return watch


def _kill_all(pid: int) -> None:
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _watch(pid: int, watch: Watch, start: float, over: threading.Event) -> None:
    spent: dict[int, float] = {}
    encoding: set[int] = set()
    while not over.wait(WATCHED_EVERY):
        try:
            processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        memory = {each.pid: _megabytes(each) for each in processes}
        encoding |= {number for number, megabytes in memory.items() if megabytes}
        spent |= {each.pid: seconds for each in processes if (seconds := _cpu_seconds(each)) is not None}
        of_servers = sum(seconds for number, seconds in spent.items() if number not in encoding)
        load, cpu = os.getloadavg()[0], sum(spent.values())
        watch.moments.append(Moment(time.perf_counter() - start, max(memory.values()), cpu, load, of_servers))


def _megabytes(process: psutil.Process) -> float:
    """Resident memory of a process that encodes; 0 for others, and for a process that has just ended."""
    try:
        encodes = any(title in part for part in process.cmdline() for title in ENCODER_TITLES)
        return process.memory_info().rss / MEGABYTE if encodes else 0.0
    except psutil.Error:
        return 0.0


def _cpu_seconds(process: psutil.Process) -> float | None:
    """CPU seconds so far; None for a process that has just ended."""
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return None
