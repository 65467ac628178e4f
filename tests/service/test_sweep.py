"""Tests of sweeps: which trials are run, what is refused before the first, and how a stopped sweep is resumed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from service.sweep.command_line import main
from service.sweep.ray_engine import run_with_ray
from service.sweep.space import Sweep, trial_settings
from service.sweep.summary import ranked, summary_page
from service.sweep.trials import Trial, lay_out, run_all, run_trial
from settings.record import ConfigError, build_settings
from tests.conftest import EXAMPLE
from tests.job.report_folder import evaluation_json

if TYPE_CHECKING:
    from tests.browser import Browser

pytest_plugins = ["tests.browser"]


def sweep(**values: Any) -> Sweep:
    return build_settings(Sweep, values)


def finish(trial: Trial, quality: float) -> None:
    """Write the files of a finished training."""
    trial.output.mkdir(parents=True)
    evaluation = evaluation_json(trial.output)
    evaluation["chosen"]["relative"]["quality"] = quality
    (trial.output / "report.json").write_text(json.dumps({"seconds": 3.0, "evaluation": evaluation}))


def test_a_grid_tries_all() -> None:
    trials = trial_settings(sweep(fields={"rank": [4, 8], "learning_rate": [1e-4, 3e-4, 1e-3]}), {})
    assert len(trials) == 6 and trials[1] == {"rank": 4, "learning_rate": 3e-4}


def test_random_draws_stay_in_their_spans_and_are_the_same_again() -> None:
    wanted = sweep(search="random", trials=40, seed=3, fields={
        "rank": {"low": 4, "high": 64, "log": True}, "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "optimizer": ["adamw", "adafactor"],
    })  # fmt: skip
    trials = trial_settings(wanted, {})
    assert trials == trial_settings(wanted, {}) and len(trials) == 40
    assert all(4 <= trial["rank"] <= 64 and isinstance(trial["rank"], int) for trial in trials)
    assert all(1e-5 <= trial["learning_rate"] <= 1e-2 for trial in trials)
    assert sum(trial["learning_rate"] < 3e-4 for trial in trials) in range(10, 31)  # uniform in the logarithm
    assert {trial["optimizer"] for trial in trials} == {"adamw", "adafactor"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fields": {"rnk": [1]}}, r"rnk is not a setting; did you mean rank\?"),
        ({"fields": {"network_dim": [1]}}, r"network_dim is not a setting; did you mean rank\?"),
        ({"fields": {"zzz": [1]}}, "zzz is not a setting; docs/settings.md lists them"),
        ({"fields": {"rank": []}}, "a list of values is empty"),
        ({"fields": {"rank": {"low": 1, "high": 2}}}, "a grid needs lists"),
        ({"search": "random", "fields": {"rank": [1]}}, "trials: give the number"),
        ({"trials": 3, "fields": {"rank": [1]}}, "no effect with search: grid"),
        ({"fields": {"evaluate": [True, "auto"]}}, "evaluate is true in every trial"),
        ({"search": "random", "trials": 1, "fields": {"rank": {"low": 3, "high": 2}}}, "must be less than high"),
    ],
)
def test_wrong_sweeps_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(**values)


@pytest.mark.parametrize("value", ["no", "off", "false"])
def test_a_sweep_needs_its_evaluation(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "common.yaml").write_text(f"evaluate: {value}")
    (tmp_path / "sweep.yaml").write_text("fields: {rank: [4, 8]}")
    files = ["--config", str(tmp_path / "common.yaml"), "--sweep", str(tmp_path / "sweep.yaml")]
    assert main([str(tmp_path), *files, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: evaluate: a sweep ranks its trials")
    assert not (tmp_path / "out").exists()


def test_the_settings_of_a_run_are_evaluated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.yaml of a run has evaluate: auto, which evaluates nothing without checkpoints."""
    (tmp_path / "common.yaml").write_text("evaluate: auto\nmax_train_steps: 10")
    (tmp_path / "sweep.yaml").write_text("fields: {rank: [4, 8]}")
    out = tmp_path / "out"

    def trained(trial: Trial, data: object) -> None:
        assert yaml.safe_load((trial.folder / "config.yaml").read_text())["evaluate"] is True
        finish(trial, 0.5)
        if trial.number == 0:
            (trial.output / "report.json").write_text(json.dumps({"seconds": 3.0, "evaluation": None}))

    monkeypatch.setattr("service.sweep.trials.run_trial", trained)
    files = ["--config", str(tmp_path / "common.yaml"), "--sweep", str(tmp_path / "sweep.yaml")]
    assert main([str(EXAMPLE), *files, "--output", str(out)]) == 0
    assert "not evaluated" in (out / "sweep.html").read_text("utf-8")


def test_every_trial_is_checked_before_the_first() -> None:
    with pytest.raises(ConfigError, match=r"trial 1 with {'rank': 0}: rank"):
        trial_settings(sweep(fields={"rank": [4, 0]}), {})


def test_a_sweep_goes_on_and_sets_the_unfinished_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def train(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--output") + 1])
        number = int(folder.parent.name.removeprefix("trial_"))
        ran.append(number)
        if number == 1:
            return subprocess.CompletedProcess(command, 1)
        finish(Trial(number, folder.parent, {}), 0.5)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("service.sweep.trials.subprocess.run", train)
    settings = [{"rank": rank} for rank in (2, 4, 8)]
    trials = lay_out(tmp_path / "s", {"evaluate": True}, settings)
    finish(trials[0], 0.4)
    (trials[2].output / "half").mkdir(parents=True)
    outcomes = list(run_all(trials, ["data"]))
    assert ran == [1, 2] and (trials[2].folder / "unfinished_1" / "half").is_dir()
    assert [bool(failure) for _, failure in outcomes] == [False, True, False]
    assert yaml.safe_load((trials[1].folder / "config.yaml").read_text()) == {"evaluate": True, "rank": 4}
    assert lay_out(tmp_path / "s", {"evaluate": True}, settings)[0].report
    with pytest.raises(ConfigError, match="contains another sweep"):
        lay_out(tmp_path / "s", {"evaluate": True}, settings[:1])
    assert run_trial(trials[1], ["data"]) and ranked(trials)[0].number == 2


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    rates = yaml.safe_load("[1e-5, 1e-3]")
    trials = lay_out(tmp_path / "s", {}, [{"learning_rate": rate} for rate in (*rates, 2e-5)])
    finish(trials[0], 0.4)
    assert "Quality by learning_rate" in summary_page(trials, {})
    words = [Trial(each.number, each.folder, {"trigger_word": ("A", "nan", "1")[each.number]}) for each in trials]
    assert "Quality by trigger_word" not in summary_page(words, {})


@pytest.mark.slow
def test_the_page_ranks_and_links(tmp_path: Path, browser: Browser) -> None:
    trials = lay_out(tmp_path / "s", {}, [{"rank": 2, "optimizer": "<b>"}, {"rank": 64, "optimizer": "adamw"},
                                          {"rank": 8, "optimizer": "adamw"}])  # fmt: skip
    finish(trials[0], 0.4)
    finish(trials[1], 0.7)
    page = tmp_path / "s" / "sweep.html"
    page.write_text(summary_page(trials, {2: "status 1: <i>no</i>"}), encoding="utf-8")
    browser.open(page, 390)
    assert browser.complaints() == [] and browser.faint_texts() == []
    assert browser.too_wide() == [] and browser.small_texts() == []
    rows = browser.run("return [...document.querySelectorAll('tbody tr')].map((row) => row.innerText)")
    assert rows[0].startswith("1\t64\tadamw\t0.700") and "status 1: <i>no</i>" in rows[2]
    assert browser.run("return document.querySelector('td a').getAttribute('href')") == "trial_001/run/report.html"


def test_a_missing_ray_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("service.sweep.ray_engine.find_spec", lambda _: None)
    (tmp_path / "s.yaml").write_text("fields: {rank: [2]}")
    arguments = [str(EXAMPLE), "--sweep", str(tmp_path / "s.yaml"), "--output", str(tmp_path / "o")]
    assert main([*arguments, "--engine", "ray"]) == 2
    assert "pip install -r requirements-ray.txt, or use local" in capsys.readouterr().err


def test_ray_starts_nothing_where_all_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.sweep.ray_engine.find_spec", lambda _: True)
    trials = lay_out(tmp_path / "s", {}, [{"rank": 2}])
    finish(trials[0], 0.4)
    assert list(run_with_ray(trials, ["data"], 1.0)) == [(trials[0], None)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_real_sweep(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "ray":
        pytest.importorskip("ray.tune")
        monkeypatch.setenv("RAY_ADDRESS", "local")  # another test's cluster may end before this test
    common = {"base_model": "mini-sdxl", "class_word": "figure", "max_train_steps": 2, "train_batch_size": 1,
              "num_inference_steps": 1, "guidance_scale": 1.0, "num_validation_images": 0, "evaluation_samples": 1,
              "evaluation_scales": [1.0]}  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(common))
    (tmp_path / "s.yaml").write_text("fields: {rank: [1, 2]}")
    arguments = [str(EXAMPLE), "--config", str(tmp_path / "c.yaml"), "--sweep", str(tmp_path / "s.yaml"),
                 "--output", str(tmp_path / "o"), "--engine", engine, "--gpus", "0"]  # fmt: skip
    assert main(arguments) == 0
    assert (tmp_path / "o/sweep.html").is_file() and (tmp_path / "o/trial_001/run/report.html").is_file()


def test_named_data_reach_the_trials_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "sweep.yaml").write_text("fields: {rank: [4, 8]}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    tried: list[list[str]] = []

    def none_of(trials: list[Trial], data: list[str]) -> Iterator[tuple[Trial, str | None]]:
        tried.append(data)
        return iter(())

    monkeypatch.setattr("service.sweep.command_line.run_all", none_of)
    named = ["hf://owner/name:train[:5]", "s3://bucket/{0..3}.tar", "https://example.org/a.zip"]
    assert main([*named, "photos", "--sweep", "sweep.yaml", "--output", "out"]) == 0
    assert tried == [[*named, str(tmp_path / "photos")]]
