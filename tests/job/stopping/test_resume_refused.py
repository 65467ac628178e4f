"""Tests that resuming with other data, other settings or fewer steps is refused, and that no file is then rewritten."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from job.output_folder import OutputFolder
from job.resume import MAY_CHANGE, resume, resumed_config
from job.run import run
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE, png
from trainer.checkpoints.folders import read_checkpoint

CONFIG = TrainingConfig(
    base_model="mini-sdxl", class_word="figure", max_train_steps=6, train_batch_size=2, rank=2, num_tokens=1,
    num_validation_images=0, lr_warmup_steps=3, checkpointing_steps=2, evaluate="false", captioner="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """A run of six steps with a checkpoint at the last one."""
    output = OutputFolder.create(tmp_path_factory.mktemp("finished") / "run")
    list(run(CONFIG, [EXAMPLE], output))
    return output


@pytest.fixture
def untouched(finished: OutputFolder) -> Iterator[OutputFolder]:
    """The same run. Asserts after the test that none of its files has changed."""
    before = {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    yield finished
    assert {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"lr_warmup_steps": 100}, "the run has lr_warmup_steps 100, which cannot change; give at least 101 steps"),
        ({"lr_warmup_steps": 0, "validation_steps": 90}, "the run has validation_steps 90, .* give at least 90 steps"),
    ],
)
def test_fewer_steps_than_a_fixed_setting_needs(saved: dict[str, int], message: str) -> None:
    config = build_config({**CONFIG.given, "max_train_steps": 1000, **saved})
    with pytest.raises(ConfigError, match=f"^resume: max_train_steps is now 80, but {message}"):
        resumed_config(config, TrainingConfig(max_train_steps=80))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (TrainingConfig(max_train_steps=2), "max_train_steps is now 2, but the checkpoint already has 6 steps"),
        (TrainingConfig(max_train_steps=5, rank=2), "max_train_steps is now 5"),
        (TrainingConfig(rank=4), r"settings differ from those of the run:\n.*\n  rank +2 +4"),
        (TrainingConfig(caption_dropout=0.5), "caption_dropout"),
    ],
)
def test_fewer_steps_and_other_settings(given: TrainingConfig, message: str, untouched: OutputFolder) -> None:
    with pytest.raises(ConfigError, match=message):
        resume("latest", untouched.path, given)


def test_a_setting_that_an_earlier_version_accepted_can_be_corrected(
    untouched: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples every 900 steps of 6 had no effect, and are refused now."""

    def read(folder: Path) -> dict[str, Any]:
        state = read_checkpoint(folder)
        return {**state, "config": {**state["config"], "num_validation_images": 1, "sample_steps": 900}}

    monkeypatch.setattr("job.resume.read_checkpoint", read)
    with pytest.raises(ConfigError, match=r"sample_steps \(900\) exceeds max_train_steps \(6\)"):
        resume("latest", untouched.path, TrainingConfig())
    resumed = resume("latest", untouched.path, TrainingConfig(max_train_steps=8, sample_steps=2))
    assert (resumed.config.max_train_steps, resumed.config.sample_steps, resumed.config.rank) == (8, 2, 2)


def test_fewer_epochs(untouched: OutputFolder) -> None:
    """The number of steps in an epoch is only known with the images."""
    resumed = resume("latest", untouched.path, TrainingConfig(max_train_epochs=1))
    with pytest.raises(ConfigError, match="max_train_steps is now 4, but the checkpoint already has 6 steps"):
        list(run(resumed.config, [], resumed.output, resumed.state))


def test_other_data(untouched: OutputFolder, tmp_path: Path) -> None:
    (tmp_path / "robot").mkdir()
    (tmp_path / "robot" / "a.png").write_bytes(png())
    for data, message in (
        ([tmp_path / "robot"], "then robot.zip; now robot"),
        ([EXAMPLE, EXAMPLE], "then robot.zip; now robot.zip, robot.zip"),
    ):
        with pytest.raises(ConfigError, match=f"the data differ from those of the run:\n  {message}"):
            resume("latest", untouched.path, TrainingConfig(), data)
    changed = tmp_path / "robot.zip"
    changed.write_bytes(EXAMPLE.read_bytes() + b" ")
    with pytest.raises(ConfigError, match=r"robot\.zip: its content has changed"):
        resume("latest", untouched.path, TrainingConfig(), [changed])


def test_the_same_data_and_settings_may_be_given_again(untouched: OutputFolder, tmp_path: Path) -> None:
    elsewhere = shutil.copy(EXAMPLE, tmp_path / "robot.zip")
    resumed = resume("latest", untouched.path, CONFIG.model_copy(update={"max_train_steps": 8}), [elsewhere])
    assert resumed.config.max_train_steps == 8


@pytest.mark.parametrize("name", ["config.yaml", "dataset/dataset.html"])
def test_edited_images_are_refused_before_anything_is_rewritten(
    name: str, finished: OutputFolder, tmp_path: Path
) -> None:
    copy = OutputFolder(Path(shutil.copytree(finished.path, tmp_path / "copy")))
    rows = copy.dataset / "dataset.jsonl"
    rows.write_text(rows.read_text().replace("TOK", "TOK figure", 1))
    before = (copy.path / name).read_bytes()
    resumed = resume("latest", copy.path, TrainingConfig(max_train_steps=8))
    with pytest.raises(ConfigError, match="the prepared images changed"):
        list(run(resumed.config, [], resumed.output, resumed.state))
    assert (copy.path / name).read_bytes() == before


def test_all_that_may_change_is_a_setting() -> None:
    assert set(MAY_CHANGE) <= set(TrainingConfig.model_fields) and len(set(MAY_CHANGE)) == len(MAY_CHANGE)
