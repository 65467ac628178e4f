"""The process of a job: `python train.py`, which continues when the page or the worker ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from job.output_folder import OutputFolder
from studio.jobs.queue import JobQueue
from studio.jobs.record import JobRecord

PROJECT = Path(__file__).resolve().parents[2]


def command(queue: JobQueue, job: JobRecord) -> list[str]:
    """Return the command: a new training, or a resumed one if there is a checkpoint."""
    train = [sys.executable, "train.py"]
    ending = ["--output", str(job.output), "--progress_json"]
    if any(OutputFolder(job.output).checkpoints.glob("step_*")):
        return [*train, "--resume", "latest", *ending]
    return [*train, str(job.dataset), "--config", str(queue.settings_file(job)), *ending]


def start(queue: JobQueue, job: JobRecord) -> psutil.Popen:
    """Start it in its own session, with its output in a file: Ctrl-C in the page's terminal does not stop it, and it
    does not depend on a pipe."""
    with queue.log(job).open("ab") as log:
        return psutil.Popen(
            command(queue, job),
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def living(job: JobRecord) -> psutil.Process | None:
    """Return the job's process if it is running; None if it has ended or its process id now belongs to another one."""
    if job.pid is None:
        return None
    try:
        process = psutil.Process(job.pid)
        alive = process.create_time() == job.started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def signal_group(process: psutil.Process, number: signal.Signals) -> None:
    """Signal the process and those that it started in its session."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def memory_gib(job: JobRecord) -> float | None:
    """Return the main memory of the running job in GiB, with the processes that it started; None if it does not run."""
    process = living(job)
    if process is None:
        return None
    try:
        parts = [process, *process.children(recursive=True)]
        return float(sum(each.memory_info().rss for each in parts)) / 2**30
    except psutil.NoSuchProcess:
        return None
