"""`python -m studio.jobs.worker QUEUE RUNS`: runs the jobs of a queue, one after the other, until none is left.

It is independent of the page, and continues without it. Only one worker runs per queue; another one ends at once.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from filelock import Timeout

from job.endings import STOPPED, SUCCESS
from job.output_folder import OutputFolder
from studio.jobs.pace import pace_of
from studio.jobs.process import PROJECT, living, signal_group, start
from studio.jobs.queue import JobQueue
from studio.jobs.record import JobRecord
from studio.workspace import free_folder

POLL_SECONDS = 0.2
SECONDS_TO_SAVE = 600.0
"""Time for a stopping job to write its checkpoint. After that it is killed."""
SECONDS_FOR_THE_LOCK = 1.0
"""The page holds the lock briefly to check whether a worker is running."""
ERROR_LINE = re.compile(r"^error: (.*)$", re.MULTILINE)
UNKNOWN = None
"""Exit status of a process that another worker started."""
WITHOUT_PROCESS: dict[str, Any] = {"pid": None, "started": None, "request": None}


def ensure_worker(queue: JobQueue, runs: Path) -> None:
    """Start a worker if there are unfinished jobs and none is running."""
    if not queue.unfinished() or queue.has_worker():
        return
    with (queue.folder / "worker.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "studio.jobs.worker", str(queue.folder), str(runs)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def work(queue: JobQueue) -> None:
    """Run jobs until none is left. Returns at once if another worker is running."""
    while queue.unfinished():  # read again without the lock: a job may have been added in the meantime
        try:
            with queue.worker_lock.acquire(timeout=SECONDS_FOR_THE_LOCK):
                while jobs := queue.unfinished():
                    run(queue, jobs[0])
        except Timeout:
            return


def run(queue: JobQueue, job: JobRecord) -> None:
    """Run a job to its end: a queued one, or one of an earlier worker."""
    if job.state == "running":
        process = living(job)
        if process is None:  # the machine was switched off, or its end was not observed
            queue.change(job.id, lambda current: _measured(_left(current)))
            return
    else:
        process = _begin(queue, job)
        if process is None:
            return
    status = _follow(queue, job, process)
    queue.change(job.id, lambda current: _measured(_ended(current, status, queue.log(job))))


def _begin(queue: JobQueue, job: JobRecord) -> psutil.Process | None:
    """Start a job, and return its process; None if it is no longer queued."""
    started: list[psutil.Process] = []

    def begun(current: JobRecord) -> JobRecord:
        if current.state != "queued":
            return current
        _make_room(OutputFolder(current.output))
        started.append(start(queue, current))
        return current.having(state="running", pid=started[0].pid, started=started[0].create_time())

    queue.change(job.id, begun)
    return started[0] if started else None


def _make_room(output: OutputFolder) -> None:
    """Move the output of an earlier attempt without a checkpoint, which cannot be resumed: train.py needs an empty
    folder."""
    if not output.path.exists() or any(output.checkpoints.glob("step_*")):
        return
    if output.weights.exists():
        output.path.rename(free_folder(output.path.parent, f"{output.path.name}-earlier"))
    else:
        shutil.rmtree(output.path)


def _follow(queue: JobQueue, job: JobRecord, process: psutil.Process) -> int | None:
    """Wait for the end, and pass requests on. Returns the exit status."""
    requested_at: float | None = None
    while True:
        try:
            status = process.wait(timeout=POLL_SECONDS)
            return UNKNOWN if status is None else int(status)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            pass
        if requested_at is None and queue.get(job.id).request is not None:
            requested_at = time.monotonic()
            signal_group(process, signal.SIGTERM)
        elif requested_at is not None and time.monotonic() - requested_at > SECONDS_TO_SAVE:
            signal_group(process, signal.SIGKILL)


def _left(job: JobRecord) -> JobRecord:
    """Return a running job without a process with its new state: done, or queued again."""
    if OutputFolder(job.output).report.is_file():
        return job.having(state="done", **WITHOUT_PROCESS)
    state = {"pause": "paused", "cancel": "cancelled", None: "queued"}[job.request]
    return job.having(state=state, **WITHOUT_PROCESS)


def _ended(job: JobRecord, status: int | None, log: Path) -> JobRecord:
    """Return the job with its state after its process ended with `status`."""
    if status is UNKNOWN:
        return _left(job)
    if status == SUCCESS:
        return job.having(state="done", **WITHOUT_PROCESS)
    if job.request == "cancel":
        return job.having(state="cancelled", **WITHOUT_PROCESS)
    if job.request == "pause" or status == STOPPED:
        return job.having(state="paused", **WITHOUT_PROCESS)
    return job.having(state="failed", error=_error(log, status), **WITHOUT_PROCESS)


def _measured(job: JobRecord) -> JobRecord:
    """Return the job with its measured pace, for later estimates."""
    return job.having(pace=pace_of(OutputFolder(job.output)))


def _error(log: Path, status: int) -> str:
    """The last error that train.py printed."""
    found = ERROR_LINE.findall(log.read_text(encoding="utf-8", errors="replace"))
    return found[-1] if found else f"train.py ended with status {status}; see its log"


if __name__ == "__main__":
    work(JobQueue(Path(sys.argv[1]), Path(sys.argv[2])))
