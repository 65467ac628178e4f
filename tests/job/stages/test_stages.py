"""Tests of the stages of a job: they run one by one, in order, and a job that failed continues with the stage that
failed."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from artifact.artifact import Artifact
from families.errors import BaseModelError
from job.output_folder import OutputFolder
from job.progress import Progress
from job.run import STAGES, run_stages
from job.stage import Job, Stage
from job.verification.verify import VerificationFailed
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE

CONFIG = TrainingConfig(
    base_model="mini-sdxl", class_word="robot", captioner="none", max_train_steps=2, train_batch_size=2, rank=2,
    num_tokens=1, num_validation_images=0,
)  # fmt: skip
NAMES = [stage.name for stage in STAGES]


def test_fractions_of_the_stages_follow_each_other() -> None:
    bounds = [bound for stage in STAGES for bound in (stage.first, stage.last)]
    assert bounds == sorted(bounds) and bounds[0] == 0.0 and bounds[-1] == 1.0
    assert len(set(NAMES)) == len(NAMES) == 11


@pytest.mark.slow
def test_a_job_that_failed_goes_on_with_the_stage_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(CONFIG, [EXAMPLE], OutputFolder.create(tmp_path / "out"))
    assert not hasattr(job, "family")
    list(run_stages(job, STAGES[:1]))
    assert job.done == ["load"] and job.config.resolution == job.family.native_resolution

    with monkeypatch.context() as broken:
        broken.setattr(Artifact, "write_embeddings", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            list(run_stages(job))
    assert job.done == NAMES[: NAMES.index("sample")]
    weights = job.output.weights.read_bytes()

    with monkeypatch.context() as broken:
        broken.setattr("job.stages.verify.compare", lambda *_: (_ for _ in ()).throw(VerificationFailed("differs")))
        with pytest.raises(VerificationFailed):
            list(run_stages(job))
    assert job.done[-1] == "sample"

    events = list(run_stages(job))
    assert job.done == NAMES and job.output.weights.read_bytes() == weights  # nothing was trained again
    assert events[0].message == "verifying the artifact" and events[0].fraction == 0.93
    report = json.loads(job.output.report.read_text())
    assert list(report["phases"]) == [stage.name for stage in STAGES if stage.timed]
    assert events[-1].fraction == 1.0 and events[-1].phases is not None


@pytest.mark.parametrize("name", ["init_weights", "training_adapter", "vae", "validation_prompts_file"])
def test_missing_files_are_reported_before_the_base_model_is_loaded(name: str, tmp_path: Path) -> None:
    config = build_config({**CONFIG.given, name: str(tmp_path / "gone" / "file.safetensors")})
    said = list[Progress]()
    with pytest.raises((ConfigError, BaseModelError), match=f"^{name}: .*file.safetensors"):
        said.extend(run_stages(Job(config, [EXAMPLE], OutputFolder.create(tmp_path / "out"))))
    assert said == []


@pytest.mark.slow
def test_every_line_lies_within_its_stage(tmp_path: Path) -> None:
    job = Job(CONFIG, [EXAMPLE], OutputFolder.create(tmp_path / "out"))
    for stage in STAGES:
        for event in run_stages(job, [stage]):
            assert stage.first <= event.fraction <= stage.last, event
    assert job.done == NAMES


def test_every_warning_of_a_run_is_in_the_report_once(tmp_path: Path) -> None:
    """Includes warnings of steps, and warnings that occur twice."""

    def warn(job: Job) -> Generator[Progress, None, None]:
        for message in ("the rate was halved", "the rate was halved", "a loss was high"):
            yield Progress(message, 0.5, step=1, warning=True)

    job = Job(CONFIG, [EXAMPLE], OutputFolder.create(tmp_path / "out"))
    stages = [*STAGES[:-1], Stage("warn", warn, 0.99, 0.99), STAGES[-1]]
    shown = [event.message for event in run_stages(job, stages) if event.warning]
    warnings = json.loads(job.output.report.read_text())["warnings"]
    assert warnings == list(dict.fromkeys(shown)) and warnings[-2:] == ["the rate was halved", "a loss was high"]
    page = job.output.page.read_text(encoding="utf-8")
    assert all(warning in page for warning in warnings[-2:])
