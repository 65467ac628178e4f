"""Trackers get every row and every sample once, and their packages are asked for before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

from preprocess.settings import ConfigError
from tests.report_folder import save
from trainer.config import TrainingConfig
from trainer.output_folder import OutputFolder
from trainer.progress import Progress
from trainer.trackers import followed, start_trackers


class Recorder(GeneralTracker):
    """A tracker that remembers."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__(_blank=True)
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.images: list[tuple[int, int]] = []
        self.finished = 0

    def log(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
        assert step is not None
        self.logged.append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
        assert step is not None
        self.images.append((step, len(values["samples"])))

    def finish(self) -> None:
        self.finished += 1


def test_rows_and_samples_are_logged_once_in_order(tmp_path: Path) -> None:
    output, recorder = OutputFolder(tmp_path), Recorder()

    def events() -> Any:
        for step in (3, 4):
            with output.metrics.open("a") as file:
                file.write(json.dumps({"step": step, "loss": 1.0, "losses": {"a": step}}) + "\n")
            yield Progress("step", 0.5, step=step)
        output.validation.write_text('{"step": 4, "score": 0.9}\n')
        save(output.samples_of_step(4) / "00.png", (1, 2, 3))

    output.metrics.write_text('{"step": 2, "loss": 9.0}\n')  # of the run that this one goes on from
    assert len(list(followed(events(), [recorder], output, 2))) == 2
    assert [step for step, _ in recorder.logged] == [3, 4, 4]
    assert recorder.logged[0][1] == {"train/step": 3, "train/loss": 1.0, "train/losses/a": 3}
    assert recorder.logged[2][1]["validation/score"] == 0.9
    assert recorder.images == [(4, 1)] and recorder.finished == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_starts(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.trackers.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"trackers: {name} needs .* pip install {name}"):
        start_trackers(TrainingConfig(trackers=(name,)), OutputFolder(tmp_path))


def test_no_trackers_no_work(tmp_path: Path) -> None:
    assert start_trackers(TrainingConfig(), OutputFolder(tmp_path)) == []
    assert [event.step for event in followed(iter([Progress("x", 0.1, step=1)]), [], OutputFolder(tmp_path), 0)] == [1]
