"""The queue on disk: a folder for each job, with its record, settings and log. Page and worker share it.

A record is only changed under a file lock, and replaced atomically, so that readers never see a partial record.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from settings.record import ConfigError
from studio.jobs.record import ENDED, JobRecord, Request
from studio.workspace import free_folder, inside

RECORD, SETTINGS, LOG = "job.json", "settings.yaml", "log.txt"
CHANGED = (".jsonl", ".json", ".html")
"""Files of a dataset that edits replace. The others are hard links in the copy."""


class JobQueue:
    """The jobs in a folder, in the order in which they were added."""

    def __init__(self, folder: Path, runs: Path) -> None:
        """`runs`: the folder of the output folders. Both are absolute."""
        self.folder, self._runs = folder, runs
        folder.mkdir(parents=True, exist_ok=True)
        self._changes = FileLock(folder / "changes.lock")

    def add(self, name: str, dataset: Path, settings: dict[str, Any]) -> JobRecord:
        """Add a job with a copy of the current `dataset`: later edits do not change it."""
        with self._changes:
            number = 1 + max((int(job.id) for job in self.jobs()), default=0)
            folder = self.folder / f"{number:06d}"
            partial = self.folder / f".partial-{number:06d}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(dataset, partial / "dataset", copy_function=_link_or_copy)
            output = free_folder(self._runs, name)
            output.mkdir(parents=True)
            text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            (partial / SETTINGS).write_text(text, encoding="utf-8")
            job = JobRecord(
                id=folder.name, name=output.name, dataset=folder / "dataset", output=output, settings=settings
            )
            (partial / RECORD).write_text(job.model_dump_json(indent=2), encoding="utf-8")
            partial.rename(folder)
        return job

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, the oldest first."""
        records = sorted(self.folder.glob(f"[0-9]*/{RECORD}"))
        return [JobRecord.model_validate_json(path.read_text(encoding="utf-8")) for path in records]

    def choices(self) -> list[tuple[str, str]]:
        """Return names and ids for a list on the page, the newest first."""
        return [(job.name, job.id) for job in reversed(self.jobs())]

    def get(self, identity: str) -> JobRecord:
        """Return a job. Raises ConfigError for an unknown id."""
        path = inside(self.folder, identity) / RECORD
        if not path.is_file():
            raise ConfigError(f"job: the id {identity!r} does not exist; select a job from the list")
        return JobRecord.model_validate_json(path.read_text(encoding="utf-8"))

    def settings_file(self, job: JobRecord) -> Path:
        """Return the file for train.py's --config."""
        return self.folder / job.id / SETTINGS

    def log(self, job: JobRecord) -> Path:
        """Return the file with train.py's output."""
        return self.folder / job.id / LOG

    def change(self, identity: str, change: Callable[[JobRecord], JobRecord]) -> JobRecord:
        """Replace a record by the result of `change`, and return it."""
        with self._changes:
            job = change(self.get(identity))
            path = self.folder / job.id / RECORD
            partial = path.with_suffix(".partial")
            partial.write_text(job.model_dump_json(indent=2), encoding="utf-8")
            os.replace(partial, path)
        return job

    def ask(self, identity: str, request: Request) -> JobRecord:
        """Pause or cancel: a running job is requested to stop, other jobs are changed at once."""

        def requested(job: JobRecord) -> JobRecord:
            if job.state == "running":
                return job.having(request=request)
            if job.state == "queued":
                return job.having(state="paused" if request == "pause" else "cancelled")
            return job.having(state="cancelled") if (job.state, request) == ("paused", "cancel") else job

        return self.change(identity, requested)

    def resume(self, identity: str) -> JobRecord:
        """Queue a job again that was paused, cancelled or failed. It continues from its last checkpoint."""

        def queued(job: JobRecord) -> JobRecord:
            ended = job.state in ("paused", "failed", "cancelled")
            return job.having(state="queued", request=None, error="") if ended else job

        return self.change(identity, queued)

    def unfinished(self) -> list[JobRecord]:
        """Return the jobs for a worker: running jobs of an earlier worker, then the queued ones."""
        jobs = self.jobs()
        return [job for state in ("running", "queued") for job in jobs if job.state == state]

    @property
    def worker_lock(self) -> FileLock:
        """The lock that the worker holds while it runs. The system releases it when the process ends."""
        return FileLock(self.folder / "worker.lock")

    def has_worker(self) -> bool:
        """Whether a worker is running."""
        try:
            with self.worker_lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def wait_for(self, identity: str, seconds: float) -> JobRecord:
        """Wait until a job has ended. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.get(identity)
            if job.state in ENDED:
                return job
            time.sleep(0.1)
        raise TimeoutError(f"job {identity} is {self.get(identity).state} after {seconds:g} seconds")


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(CHANGED):
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or no support for hard links
        shutil.copy2(source, target)
