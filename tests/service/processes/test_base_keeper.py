"""Tests of the process that keeps a base: trainings forked from it, how they end, and another base in its place."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch
from safetensors.torch import load_file

from families.errors import BaseModelError
from families.loading.kept_base import KEPT
from families.loading.sources import EMBEDDED_BASES
from families.registry import keep_base_model, load_base_model
from job.progress import Progress
from service import cog_training
from service.processes import base_keeper
from service.processes.base_keeper import BaseKeeper, BaseOfTraining, KeptBases, first_base
from service.processes.child_process import ChildProcess
from service.processes.warm_worker import start_forked
from settings.training import TrainingConfig
from tests.conftest import EXAMPLE, PROJECT
from tests.service.processes.forked_commands import checksum_of_kept_base, hang

SECONDS = 240.0
BASE = "mini-sdxl"


@pytest.fixture(scope="module")
def keeper() -> Iterator[BaseKeeper]:
    started = BaseKeeper(BaseOfTraining(BASE))
    yield started
    started.stop()


def told(job: ChildProcess) -> dict[str, Any]:
    lines = list(job.lines(SECONDS))
    assert job.exit_status() == -signal.SIGABRT, lines
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
    return found


def start_anew(command: "partial[int]", environment: Mapping[str, str]) -> ChildProcess:
    """Start the same command as a new process."""
    (arguments,) = command.args
    return ChildProcess.start([sys.executable, str(PROJECT / "train.py"), *arguments], environment)


@pytest.mark.slow
def test_trainings_give_the_same_file_and_leave_the_kept_base_as_it_was(keeper: BaseKeeper, tmp_path: Path) -> None:
    """One training is forked from the kept base, one from the process that has only imported the libraries, and one is
    a new process. Cancelled and crashed children do not change the base: the command that computes the checksum sets
    all weights to zero, and aborts."""
    before = told(keeper.start(checksum_of_kept_base, {}))
    hanging = keeper.start(hang, {})
    assert next(hanging.lines(SECONDS)) == "started"
    hanging.stop()
    assert hanging.exit_status() == -signal.SIGTERM
    settings = ["--base_model", BASE, "--resolution", "32", "--max_train_steps", "2", "--train_batch_size", "2",
                "--num_validation_images", "0"]  # fmt: skip
    files = []
    for name, start in {"kept": keeper.start, "forked": start_forked, "started": start_anew}.items():
        arguments = [str(EXAMPLE), *settings, "--output", str(tmp_path / name), "--progress_json"]
        job = start(partial(cog_training.train_command, arguments), dict(os.environ))
        lines = list(job.lines(SECONDS))
        assert job.exit_status() == 0, lines[-5:]
        assert Progress.from_line(lines[0]) is not None
        files.append(load_file(tmp_path / name / "weights.safetensors"))
    first, *others = files
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert told(keeper.start(checksum_of_kept_base, {})) == before
    assert before["threads"] == torch.get_num_threads()
    assert keeper.is_current and keeper.is_alive


@pytest.mark.slow
def test_a_training_whose_keeper_is_killed_goes_on_and_the_next_cannot_start_there(keeper: BaseKeeper) -> None:
    job = keeper.start(hang, {})
    assert next(job.lines(SECONDS)) == "started"
    parent = psutil.Process(keeper._process.pid)
    parent.kill()
    keeper._process.join()
    assert job._process.poll() is None
    job.stop()
    assert job.exit_status() == base_keeper.UNKNOWN_STATUS
    with pytest.raises((EOFError, OSError)):
        keeper.start(hang, {})


def test_a_kept_base_is_taken_once_and_only_as_it_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(EMBEDDED_BASES[BASE], folder)
    keep_base_model(str(folder), torch.float32)
    kept = KEPT.family
    assert kept is not None and not next(kept.denoiser.parameters()).is_meta
    assert load_base_model(str(folder), torch.float32, prediction_type="v_prediction") is not kept
    assert load_base_model(BASE, torch.float32) is not kept
    assert load_base_model(str(folder), torch.float32) is kept
    assert load_base_model(str(folder), torch.float32) is not kept
    assert not KEPT.out_of_date

    keep_base_model(str(folder), torch.float32)
    os.utime(folder / "model_index.json", (1, 1))
    assert load_base_model(str(folder), torch.float32) is not kept
    assert KEPT.out_of_date and KEPT.family is None


class Stand:
    """Stands in for `BaseKeeper`, which would start a process."""

    made: ClassVar[list[str]] = []

    def __init__(self, base: BaseOfTraining) -> None:
        self.base, self.is_current, self.is_alive = base, True, True
        self.made.append(f"start {base.base_model}")

    def stop(self) -> None:
        self.made.append(f"stop {self.base.base_model}")


def test_one_base_is_kept_that_of_the_last_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stand, "made", [])
    monkeypatch.setattr(base_keeper, "BaseKeeper", Stand)
    one, other = BaseOfTraining("one"), BaseOfTraining("other")
    kept = KeptBases()
    monkeypatch.delenv("KEEP_BASE", raising=False)
    kept.keep(one)
    assert Stand.made == [] and kept.keeper_of(one) is None
    monkeypatch.setenv("KEEP_BASE", "1")
    for base in (one, one, other, None):
        kept.keep(base)
    assert Stand.made == ["start one", "stop one", "start other"]
    assert kept.keeper_of(one) is None and kept.keeper_of(None) is None
    keeper = kept.keeper_of(other)
    assert keeper is not None
    keeper.is_current = False
    kept.keep(other)
    assert Stand.made[3:] == ["stop other", "start other"]


def test_what_is_kept_is_what_a_training_has_in_memory() -> None:
    config = TrainingConfig(base_model=BASE, class_word="dog")
    assert BaseOfTraining.of(config) == BaseOfTraining(BASE)
    full = config.model_copy(update={"adapter": "full", "mixed_precision": "bf16"})
    assert BaseOfTraining.of(full) == BaseOfTraining(BASE, adapter="full", mixed_precision="bf16")
    assert BaseOfTraining.of(config.model_copy(update={"vae": "a/vae"})) == BaseOfTraining(BASE)
    assert BaseOfTraining.of(config.model_copy(update={"base_config": "a/base"})) is None


def test_the_operator_names_a_base_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, base in (("1", None), ("0", None), ("", None), (BASE, BaseOfTraining(BASE))):
        monkeypatch.setenv("KEEP_BASE", value)
        assert first_base() == base
    monkeypatch.setenv("KEEP_BASE", "often")
    with pytest.raises(BaseModelError, match="^KEEP_BASE: 'often' is neither an embedded base model"):
        first_base()
    monkeypatch.setenv("KEEP_BASE", BASE)
    monkeypatch.setenv("ALLOWED_BASE_MODELS", "mini-flow")
    with pytest.raises(BaseModelError, match="KEEP_BASE: 'mini-sdxl' is not one of the base models"):
        first_base()
