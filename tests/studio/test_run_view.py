"""Tests of the view of a run: its records, its process, and the GPU."""

import json
from pathlib import Path

import psutil
import pytest

pytest.importorskip("filelock", reason="requirements-studio.txt is not installed")

from job.output_folder import OutputFolder
from studio.jobs import gpu
from studio.jobs.gpu import GpuUse, gpu_use
from studio.jobs.process import memory_gib
from studio.jobs.record import JobRecord
from studio.run_view import runs_view


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a program that replaces nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin" / gpu.COMMAND


def answering(program: Path, text: str, status: int = 0) -> None:
    program.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
    program.chmod(0o755)


def job_of(folder: Path, name: str, process: psutil.Process | None = None) -> JobRecord:
    output = OutputFolder.create(folder / name)
    rows = [{"step": step, "loss": 0.5, "peak_memory_gib": gib} for step, gib in ((1, 1.0), (2, 3.25))]
    output.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pid, started = (process.pid, process.create_time()) if process else (None, None)
    state = "running" if process else "done"
    return JobRecord(
        id=name, name=name, dataset=folder, output=output.path, settings={}, state=state, pid=pid, started=started
    )


def test_memory_is_that_of_the_records_and_of_the_process_while_it_runs(tmp_path: Path, smi: Path) -> None:
    answering(smi, "87, 11264, 24576")
    running, done = job_of(tmp_path, "first", psutil.Process()), job_of(tmp_path, "second")
    first, second = (runs_view([(job, tmp_path / "log.txt")]) for job in (running, done))
    for view in (first, second):
        assert "Peak memory" in view and "3.25 GiB" in view
    assert memory_gib(running) and "Main memory now" in first and "87 % busy, 11.0 of 24.0 GiB in use" in first
    assert memory_gib(done) is None and "Main memory now" not in second and "busy" not in second


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    jobs = [job_of(tmp_path, name) for name in ("first", "second", "third")]
    view = runs_view([(job, tmp_path / "log.txt") for job in jobs])
    assert view.count("<article") == 3 and view.index("first") < view.index("second") < view.index("third")


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("0, 1, 81559\n99, 2048, 4096", [GpuUse(0, 1 / 1024, 81559 / 1024), GpuUse(99, 2.0, 4.0)]),
        ("[N/A], 1024, 2048", [GpuUse(None, 1.0, 2.0)]),
        ("No devices were found", []),
    ],
)
def test_what_a_card_does_not_say_is_left_open(smi: Path, text: str, uses: list[GpuUse]) -> None:
    answering(smi, text)
    assert gpu_use() == uses


def test_without_a_gpu_nothing_is_said(smi: Path) -> None:
    answering(smi, "NVIDIA-SMI has failed", status=9)
    assert gpu_use() == []
    smi.unlink()
    assert gpu_use() == []
