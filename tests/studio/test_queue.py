"""Tests of the queue on disk and of its worker, with a small program in place of train.py."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("filelock", reason="requirements-studio.txt is not installed")

from preprocess.dataset import DATASET_FILE
from settings.record import ConfigError, read_settings_file
from studio.jobs import process
from studio.jobs.queue import RECORD, JobQueue
from studio.jobs.record import JobRecord
from studio.jobs.worker import work

TRAINING = textwrap.dedent(
    """
    import pathlib, signal, sys, time
    output, dataset, fate = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    def stop(number, frame):
        (output / "checkpoints" / "step_000007").mkdir(parents=True)
        print("stopped", flush=True)
        sys.exit(130)
    signal.signal(signal.SIGTERM, stop)
    output.mkdir(exist_ok=True)
    print((dataset / "dataset.jsonl").read_text(), flush=True)
    if fate == "fails":
        print("error: resolution: 63 is not a multiple of 8", flush=True)
        sys.exit(2)
    if fate == "waits" and not (output / "checkpoints").exists():
        (output / "waiting").touch()
        time.sleep(60)
    (output / "report.json").touch()
    """
)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    """A queue whose jobs run TRAINING. The setting `fate` determines how they end."""

    def command(queue: JobQueue, job: JobRecord) -> list[str]:
        return [sys.executable, "-c", TRAINING, str(job.output), str(job.dataset), job.settings["fate"]]

    monkeypatch.setattr(process, "command", command)
    made = JobQueue(tmp_path / "queue", tmp_path / "runs")
    yield made
    for job in made.jobs():
        if (left := process.living(job)) is not None:
            process.signal_group(left, signal.SIGKILL)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.png").write_bytes(b"pixels")
    (folder / DATASET_FILE).write_text("as it was at the start")
    return folder


def at_work(queue: JobQueue) -> threading.Thread:
    thread = threading.Thread(target=work, args=(queue,), daemon=True)
    thread.start()
    return thread


def wait_until_waiting(queue: JobQueue, job: JobRecord) -> JobRecord:
    deadline = time.monotonic() + 20
    while not ((job.output / "waiting").exists() and queue.get(job.id).state == "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return queue.get(job.id)


def test_jobs_run_one_after_the_other_on_the_data_as_they_were(queue: JobQueue, dataset: Path) -> None:
    first = queue.add("dog", dataset, {"fate": "fails"})
    second = queue.add("dog", dataset, {"fate": "ends"})
    assert (first.name, second.name) == ("dog", "dog-2")
    (dataset / DATASET_FILE).write_text("edited later")
    work(queue)
    failed, done = queue.get(first.id), queue.get(second.id)
    assert (failed.state, failed.error) == ("failed", "resolution: 63 is not a multiple of 8")
    assert done.state == "done"
    assert "as it was at the start" in queue.log(done).read_text()
    assert os.path.samefile(done.dataset / "images" / "0.png", dataset / "images" / "0.png")  # pixels are not copied


def test_a_paused_job_goes_on_from_its_checkpoint(queue: JobQueue, dataset: Path) -> None:
    job = queue.add("dog", dataset, {"fate": "waits"})
    thread = at_work(queue)
    wait_until_waiting(queue, job)
    queue.ask(job.id, "pause")
    assert queue.wait_for(job.id, 20).state == "paused"
    assert (job.output / "checkpoints" / "step_000007").is_dir()
    queue.resume(job.id)
    thread.join(20)
    work(queue)
    assert queue.get(job.id).state == "done"


def test_a_cancelled_job_makes_room_for_the_next(queue: JobQueue, dataset: Path) -> None:
    job, later, last = (queue.add("dog", dataset, {"fate": fate}) for fate in ("waits", "ends", "ends"))
    thread = at_work(queue)
    wait_until_waiting(queue, job)
    queue.ask(last.id, "cancel")
    queue.ask(job.id, "cancel")
    thread.join(20)
    assert [queue.get(each.id).state for each in (job, later, last)] == ["cancelled", "done", "cancelled"]


def test_a_new_worker_takes_over_the_job_of_a_killed_one(queue: JobQueue, dataset: Path) -> None:
    job = queue.add("dog", dataset, {"fate": "waits"})
    training = process.start(queue, job)
    queue.change(job.id, lambda each: each.having(state="running", pid=training.pid, started=training.create_time()))
    wait_until_waiting(queue, job)
    thread = at_work(queue)
    queue.ask(job.id, "pause")
    thread.join(20)
    assert queue.get(job.id).state == "paused"


@pytest.mark.parametrize("finished", [True, False])
def test_after_a_restart_of_the_machine_running_jobs_are_queued_again(
    queue: JobQueue, dataset: Path, finished: bool
) -> None:
    job = queue.add("dog", dataset, {"fate": "ends"})
    own = psutil.Process()  # its process id now belongs to another process
    queue.change(job.id, lambda each: each.having(state="running", pid=own.pid, started=own.create_time() - 9))
    if finished:
        (job.output / "report.json").touch()
    work(queue)
    assert queue.get(job.id).state == "done"
    assert queue.log(job).exists() == (not finished)


def test_what_an_earlier_attempt_has_trained_is_kept(queue: JobQueue, dataset: Path) -> None:
    job = queue.add("dog", dataset, {"fate": "ends"})
    (job.output / "weights.safetensors").write_bytes(b"trained")
    work(queue)
    assert (job.output.parent / "dog-earlier" / "weights.safetensors").read_bytes() == b"trained"


def test_only_one_worker_is_at_work(queue: JobQueue, dataset: Path) -> None:
    job = queue.add("dog", dataset, {"fate": "ends"})
    with queue.worker_lock.acquire():
        assert queue.has_worker()
        work(JobQueue(queue.folder, job.output.parent))
        assert queue.get(job.id).state == "queued"


def test_an_id_from_the_browser_is_no_path(queue: JobQueue, dataset: Path, tmp_path: Path) -> None:
    """Records in other places, also inside the queue's folder, do not belong to it, whatever path leads to them."""
    job = queue.add("dog", dataset, {"fate": "ends"})
    record = queue.folder / job.id / RECORD
    for folder in (tmp_path / "elsewhere", queue.folder, queue.folder / job.id / "inner"):
        folder.mkdir(exist_ok=True)
        shutil.copy(record, folder)
    for identity in ("../elsewhere", "..", "", ".", str(tmp_path / "elsewhere"), f"{job.id}/inner", f"./{job.id}"):
        with pytest.raises(ConfigError, match="is not a valid name; select one from the list"):
            queue.get(identity)
    with pytest.raises(ConfigError, match="the id '000009' does not exist"):
        queue.get("000009")
    assert queue.get(job.id) == job


def test_the_command_is_that_of_a_user(tmp_path: Path, dataset: Path) -> None:
    queue = JobQueue(tmp_path / "queue", tmp_path / "runs")
    job = queue.add("dog", dataset, {"rank": 4})
    words = process.command(queue, job)[1:]
    assert words[:3] == ["train.py", str(job.dataset), "--config"]
    assert read_settings_file(Path(words[3])) == {"rank": 4}
    (job.output / "checkpoints" / "step_000007").mkdir(parents=True)
    assert process.command(queue, job)[1:4] == ["train.py", "--resume", "latest"]


def test_the_worker_ends_when_nothing_is_left(queue: JobQueue) -> None:
    words = [sys.executable, "-m", "studio.jobs.worker", str(queue.folder), str(queue.folder.parent / "runs")]
    assert subprocess.run(words, cwd=process.PROJECT, timeout=60, check=False).returncode == 0
