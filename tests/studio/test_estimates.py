"""Tests of the estimates before a training starts: memory, time, and cost."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("filelock", reason="requirements-studio.txt is not installed")

from job.output_folder import OutputFolder
from preprocess.dataset import PreparedDataset
from preprocess.prepare import prepare
from settings.preparation import DataConfig
from settings.training import build_config
from studio.estimates import memory
from studio.estimates.duration import Duration, duration_of, plan_of
from studio.estimates.lines import cost_line, time_line
from studio.estimates.presets import presets_of, settings_of_preset, training_settings
from studio.jobs.pace import Pace, pace_of
from studio.jobs.queue import JobQueue
from studio.jobs.record import JobRecord
from tests.conftest import png

SETTINGS: dict[str, Any] = {
    "base_model": "mini-sdxl", "trigger_word": "TOK", "class_word": "dog", "resolution": 64, "max_train_steps": 200,
}  # fmt: skip
PACE = Pace(seconds_per_step=0.5, other_seconds=20.0)


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(6):
        (photos / f"{number}.png").write_bytes(png((64, 64), (40 * number, 90, 90)))
    config = DataConfig(captioner="none", resolution=64, trigger_word="TOK", class_word="dog")
    return prepare([photos], config, tmp_path / "dataset")


def measured(dataset: PreparedDataset, name: str, pace: Pace | None = PACE, **changed: Any) -> JobRecord:
    folder = dataset.folder
    return JobRecord(id=name, name=name, dataset=folder, output=folder, settings=SETTINGS | changed, pace=pace)


def duration(dataset: PreparedDataset, *jobs: JobRecord, **changed: Any) -> Duration:
    return duration_of(plan_of(build_config(SETTINGS | changed), dataset), jobs)


def test_the_time_is_that_of_the_planned_steps_at_the_measured_pace(dataset: PreparedDataset) -> None:
    found = duration(dataset, measured(dataset, "first", max_train_steps=50))
    assert found.seconds == 200 * 0.5 + 20
    line = time_line(found)
    assert "about 0:02:00 (200 steps of 0.5 s, and 0:00:20 for the rest, as measured in the run first)" in line
    assert cost_line(found, 3.0) == "cost: about 0.10 at 3 an hour"
    assert cost_line(found, None) is None


def test_steps_are_planned_as_train_does_and_a_time_limit_ends_them(dataset: PreparedDataset) -> None:
    found = duration(dataset, max_train_steps=None)
    assert (found.plan.steps, found.plan.settings["train_batch_size"]) == (500, 4)  # the minimum: 100 × 6 / 4 is less
    assert duration(dataset, measured(dataset, "first"), max_train_minutes=1).seconds == 60 + 20


@pytest.mark.parametrize(
    "changed",
    [{"train_batch_size": 2}, {"resolution": 128}, {"adapter": "dora"}, {"gradient_checkpointing": "always"}],
)
def test_a_run_that_differs_in_what_decides_is_no_measure(dataset: PreparedDataset, changed: dict[str, Any]) -> None:
    found = duration(dataset, measured(dataset, "other", **changed), measured(dataset, "unmeasured", pace=None))
    assert found.seconds is None
    assert "unknown until a similar training was measured" in time_line(found)
    assert cost_line(found, 3.0) == "cost: unknown, because the time is unknown"


def test_the_run_that_differs_least_is_the_measure_and_what_differs_is_said(dataset: PreparedDataset) -> None:
    far = measured(dataset, "far", rank=4, lora_targets="attention+feed-forward")
    near, later = measured(dataset, "near", rank=4), measured(dataset, "later", rank=8)
    line = time_line(duration(dataset, near, later, far))
    assert "in the run later, which differs in rank)" in line


def test_the_pace_of_a_run_is_measured_from_its_files(tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "run")
    assert pace_of(output) is None
    rows = [{"step": number, "seconds_per_step": seconds} for number, seconds in enumerate([9.0, 0.5, 0.4, 0.6, 0.5])]
    output.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert pace_of(output) == Pace(seconds_per_step=0.5)
    output.report.write_text(json.dumps({"seconds": 40.0, "steps": 5}))
    assert pace_of(output) == Pace(seconds_per_step=0.5, other_seconds=37.5)


def test_what_decides_about_the_memory_is_predicted_anew_and_else_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predicted(values: memory.Settings, images: int) -> dict[str, str]:
        asked.append(values)
        return {memory.key(build_config(values), images): f"memory: {len(asked)}"}

    monkeypatch.setattr(memory, "by_process", predicted)
    assert memory.needs_of(tmp_path, 6, SETTINGS) == "memory: 1"
    assert memory.needs_of(tmp_path, 6, SETTINGS | {"max_train_steps": 9, "learning_rate": 1e-3}) == "memory: 1"
    assert memory.needs_of(tmp_path, 6, SETTINGS | {"rank": 64}) == "memory: 2"
    assert memory.needs_of(tmp_path, 1, SETTINGS) == "memory: 3"
    assert memory.needs_of(tmp_path, 9, SETTINGS) == "memory: 1"  # in batches of four, as with six images


def test_presets_of_a_base_change_the_training_and_not_the_pictures() -> None:
    base = "stabilityai/stable-diffusion-xl-base-1.0"
    assert presets_of(base) == ["sdxl-face", "sdxl-object", "sdxl-style"]
    of_the_set = {"base_model": base, "concept_mode": "object", "trigger_word": "TOK", "resolution": 64, "crop": "face"}
    found = settings_of_preset("sdxl-style", of_the_set)
    assert (found["rank"], found["concept_mode"], found["resolution"]) == (32, "object", 64)
    assert "crop" not in found and "crop" not in training_settings(of_the_set, {})
    build_config(found)


def test_a_queue_keeps_the_pace(tmp_path: Path, dataset: PreparedDataset) -> None:
    queue = JobQueue(tmp_path / "queue", tmp_path / "runs")
    job = queue.add("dog", dataset.folder, SETTINGS)
    queue.change(job.id, lambda each: each.having(state="done", pace=PACE))
    assert queue.get(job.id).pace == PACE
