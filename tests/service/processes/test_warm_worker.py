"""Tests of commands that are forked from a process with the libraries: their environment, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest

from service import cog_training
from service.processes.child_process import PROJECT, ChildProcess
from service.processes.warm_worker import prepare_where_wanted, start_forked
from settings.record import ConfigError
from tests.service.processes.forked_commands import crash, hang, tell

SECONDS = 240.0


def told(job: ChildProcess) -> dict[str, object]:
    (line,) = (line for line in job.lines(SECONDS) if line.startswith("{"))
    assert job.exit_status() == 3
    found: dict[str, object] = json.loads(line)
    return found


@pytest.mark.slow
def test_a_forked_command_is_like_one_that_was_started() -> None:
    job = start_forked(tell, {"ONLY": "this", "SECRET": "given"})
    lines = list(job.lines(SECONDS))
    assert job.exit_status() == 3
    assert "a complaint" in lines and lines[-1] == "the end"
    found = json.loads(next(line for line in lines if line.startswith("{")))
    assert found["variables"] == {"ONLY": "this", "SECRET": "given"}
    assert found["folder"] == str(PROJECT)
    assert found["session"] != os.getsid(0)


@pytest.mark.slow
def test_what_ends_a_command_or_the_warm_process_does_not_touch_the_next() -> None:
    hanging = start_forked(hang, {"SECRET": "given"})
    assert next(hanging.lines(SECONDS)) == "started"
    hanging.stop()
    assert hanging.exit_status() == -signal.SIGTERM
    crashing = start_forked(crash, {})
    assert len(list(crashing.lines(SECONDS))) == 0
    assert crashing.exit_status() == -signal.SIGABRT

    before = told(start_forked(tell, {}))
    assert before["variables"] == {}
    assert isinstance(before["parent"], int)
    warm, deadline = psutil.Process(before["parent"]), time.monotonic() + SECONDS
    warm.kill()
    while warm.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told(start_forked(tell, {}))["parent"] != before["parent"]


def test_a_training_starts_without_it_where_it_has_just_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def gone(*given: object) -> ChildProcess:
        raise EOFError

    monkeypatch.setenv("WARM_WORKER", "1")
    monkeypatch.setenv("TRAINING_PROCESSES", "1")
    monkeypatch.setattr(cog_training, "start_forked", gone)
    job = cog_training._start([str(tmp_path / "no.zip")], dict(os.environ), None)
    assert any("no.zip" in line for line in job.lines(SECONDS))
    assert job.exit_status() == 2
    said = capfd.readouterr().out
    assert "warning: WARM_WORKER: the process has ended, so this training starts without it (EOFError())" in said


@pytest.mark.parametrize(
    ("value", "processes", "message"), [("1", "2", "has 2 processes here"), ("often", "1", "neither 1 nor 0")]
)
def test_what_cannot_be_kept_is_said_when_the_server_starts(
    value: str, processes: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARM_WORKER", value)
    monkeypatch.setenv("TRAINING_PROCESSES", processes)
    with pytest.raises(ConfigError, match=message):
        prepare_where_wanted()


def test_nothing_is_kept_unless_the_operator_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARM_WORKER", raising=False)
    monkeypatch.setattr(forkserver, "ensure_running", lambda: pytest.fail("started"))
    prepare_where_wanted()


@pytest.mark.slow
def test_what_is_imported_and_kept_before_forking_starts_no_thread_and_no_cuda() -> None:
    """OpenBLAS's threads are excluded, since it ends them before a fork and starts them afterwards."""
    code = (
        "import os, sys, service.processes.warm_libraries\n"
        "from families.registry import keep_base_model\n"
        "torch = sys.modules['torch']\n"
        "torch.set_num_threads(1)  # as service.processes.base_keeper\n"
        "keep_base_model('mini-sdxl', torch.float32)\n"
        "print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized(), 'job.run' in sys.modules)"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["1", "False", "True"]
