"""Tests of a run with `stop_when_settled`: its samples decide when it ends, the report states this, and a run that is
resumed in the middle is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from families.family import ModelFamily
from job.output_folder import OutputFolder
from job.resume import resume
from job.run import run
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from tests.job.stopping.test_stop_at_every_step import SETTINGS, outcome
from trainer.checkpoints.folders import Checkpoints
from trainer.duration import plan_duration, settling_defaults
from trainer.resolution import resolve

SHORT: dict[str, Any] = {
    **SETTINGS, "evaluate": "auto", "max_train_steps": 9, "stop_when_settled": True, "evaluation_samples": 1,
    "prior_matching_weight": 0.0,
}  # fmt: skip


@pytest.mark.slow
def test_it_ends_when_samples_have_settled_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.validation.settling.LEAST", 0.0)  # nothing is learned here
    whole, cut = OutputFolder.create(tmp_path / "whole"), OutputFolder.create(tmp_path / "cut")
    told = [str(event) for event in run(build_config(SHORT), [EXAMPLE], whole)]
    assert any("has settled: the run and its schedules end at step 4" in line for line in told)
    report = json.loads(whole.report.read_text("utf-8"))
    assert [look["step"] for look in report["ending"]["looks"]] == [1, 2, 3, 4] and report["steps"] <= 4
    assert "had settled" in report["ending"]["headline"] and "had settled" in whole.page.read_text("utf-8")
    events = run(build_config(SHORT), [EXAMPLE], cut)
    while next(events).step != 2:
        pass
    events.close()
    resumed = resume("latest", cut.path, TrainingConfig(), [EXAMPLE])
    list(run(resumed.config, [], resumed.output, resumed.state))
    assert outcome(cut) == outcome(whole)
    assert json.loads(cut.report.read_text("utf-8"))["ending"] == report["ending"]
    assert (report["resumed_at"], json.loads(cut.report.read_text("utf-8"))["resumed_at"]) == (0, 2)
    again = resume("latest", whole.path, TrainingConfig(max_train_steps=report["steps"]), [EXAMPLE])
    said = [event.message for event in run(again.config, [], again.output, again.state) if event.warning]
    assert "all steps are already trained; set a higher max_train_steps with --resume to train more" in said
    longer = resume("latest", whole.path, TrainingConfig(max_train_steps=6), [EXAMPLE])
    assert [event.step for event in run(longer.config, [], longer.output, longer.state) if event.loss] == [5, 6]
    assert Checkpoints(whole.checkpoints).steps()[-1] == 6


@pytest.mark.slow
def test_where_samples_cannot_be_scored_the_length_is_fixed_and_a_warning_says_so(tmp_path: Path) -> None:
    settings = SHORT | {"evaluation_clip": str(tmp_path / "nothing"), "max_train_steps": 2}
    output = OutputFolder.create(tmp_path / "out")
    warnings = [event.message for event in run(build_config(settings), [EXAMPLE], output) if event.warning]
    assert any("samples are not scored" in line for line in warnings)
    assert any("stop_when_settled has no effect" in line and "2 steps" in line for line in warnings)
    assert json.loads(output.report.read_text("utf-8"))["ending"] is None


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({}, "warmup_stable_decay"),
        ({"lr_scheduler": "constant"}, "constant"),
        ({"optimizer": "adamw_schedule_free"}, None),
        ({"stop_when_settled": False}, None),
    ],
)
def test_its_schedule_needs_no_end(base: ModelFamily, given: dict[str, Any], schedule: str | None) -> None:
    config = build_config({"base_model": "mini-sdxl", "class_word": "figure", "stop_when_settled": True, **given})
    assert resolve(config, base).lr_scheduler == schedule


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"evaluate": "false"}, "evaluate: false"),
        ({"lr_scheduler": "linear"}, "lr_scheduler: linear"),
        ({"tokens_first": 0.2}, "tokens_first"),
        ({"adapter": "controlnet", "control": "canny"}, "ControlNet"),
        ({"max_train_epochs": 3}, "max_train_epochs"),
        ({"adapter": "full", "rank": 16, "learning_rate": 1e-5, "shard_base": True}, "sharded"),
    ],
)
def test_what_it_cannot_do_is_refused(base: ModelFamily, given: dict[str, Any], why: str) -> None:
    config = build_config({"base_model": "mini-sdxl", "stop_when_settled": True, **given})
    with pytest.raises(ConfigError, match=why):
        settling_defaults(config, base)


def test_the_most_steps_are_three_times_those_of_a_fixed_length() -> None:
    config = build_config({"stop_when_settled": True, "train_batch_size": 4})
    assert plan_duration(config.duration, []).max_train_steps == 1500
