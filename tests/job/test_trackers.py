"""Tests that trackers get every row and every sample once, and that a missing package is an error before a run
starts."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker
from PIL import Image

from job.output_folder import OutputFolder
from job.progress import Progress
from job.trackers import followed, require_trackers, start_trackers
from settings.record import ConfigError
from settings.training import TrainingConfig
from tests.conftest import PROJECT
from tests.job.report_folder import save


class Recorder(GeneralTracker):
    """A tracker that records its calls."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__(_blank=True)
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.images: list[tuple[int, dict[str, tuple[int, ...]]]] = []
        self.order: list[int] = []
        self.finished = 0

    def log(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
        assert step is not None
        self.logged.append((step, values))
        self.order.append(step)

    def log_images(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
        assert step is not None
        self.images.append((step, {name: image.shape for name, image in values.items()}))
        self.order.append(step)

    def finish(self) -> None:
        self.finished += 1


def test_rows_and_samples_are_logged_once_in_order(tmp_path: Path) -> None:
    output, recorder = OutputFolder(tmp_path), Recorder()

    def events() -> Any:
        for step in (3, 4):
            with output.metrics.open("a") as file:
                file.write(json.dumps({"step": step, "loss": 1.0, "losses": {"a": step}}) + "\n")
            yield Progress("step", 0.5, step=step)
            if step == 3:  # score and samples are written before the next event, and logged with it
                output.validation.write_text('{"step": 3, "score": 0.9}\n')
                save(output.samples_of_step(3) / "00.png", (1, 2, 3))
                output.step_prompts.write_text('["TOK"]')

    output.metrics.write_text('{"step": 2, "loss": 9.0}\n')  # of the run that is resumed
    assert len(list(followed(events(), [recorder], output, 2))) == 2
    assert recorder.order == [3, 3, 3, 4]  # W&B drops rows of earlier steps
    assert recorder.logged == [
        (3, {"train/loss": 1.0, "train/losses/a": 3}),
        (3, {"validation/score": 0.9}),
        (4, {"train/loss": 1.0, "train/losses/a": 4}),
    ]
    assert recorder.images == [(3, {"samples/00": (1, 64, 64, 3)})] and recorder.finished == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_starts(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.trackers.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"trackers: {name} needs .* pip install {name}"):
        require_trackers(TrainingConfig(trackers=(name,)))


def test_no_trackers_no_work(tmp_path: Path) -> None:
    require_trackers(TrainingConfig())
    assert start_trackers((), {}, OutputFolder(tmp_path), 0) == []
    assert [event.step for event in followed(iter([Progress("x", 0.1, step=1)]), [], OutputFolder(tmp_path), 0)] == [1]


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    """TensorBoard reads the log of a run that was killed after step 3 and resumed after step 2."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found,unused-ignore]
        EventAccumulator,
    )

    config = TrainingConfig(trackers=("tensorboard",), learning_rate=3e-4)
    output = OutputFolder(tmp_path)
    require_trackers(config)
    run_steps(config, output, first=0, steps=(1, 2, 3))
    output.metrics.write_text("".join(output.metrics.read_text().splitlines(keepends=True)[:2]))
    run_steps(config, output, first=2, steps=(3, 4))
    found = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}, purge_orphaned_data=True)
    found.Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.value for event in found.Scalars("train/losses/mse")] == [10.0, 20.0, 30.0, 40.0]
    assert {event.step for event in found.Scalars("validation/score")} == {2, 4}
    assert "train/step" not in found.Tags()["scalars"]
    assert sorted(found.Tags()["images"]) == ["samples/00", "samples/01"]
    pictures = found.Images("samples/01")
    assert [(one.step, one.width, one.height) for one in pictures] == [(2, 64, 64), (4, 64, 64)]
    assert Image.open(io.BytesIO(pictures[0].encoded_image_string)).getpixel((0, 0)) == (2, 200, 0)
    settings = "".join(path.read_text() for path in (tmp_path / "tensorboard").rglob("hparams.yml"))
    assert "learning_rate: 0.0003" in settings


def test_wandb_writes_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from tests.job.wandb_file import wandb_records

    secret, signed = "0123456789abcdef" * 2 + "01234567", "https://site/photos.zip?signature=hush"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", secret)
    monkeypatch.setattr("sys.argv", ["train.py", signed])
    config = TrainingConfig(trackers=("wandb",), learning_rate=3e-4)
    require_trackers(config)
    run_steps(config, OutputFolder(tmp_path), first=0, steps=(1, 2, 3))
    records = wandb_records(tmp_path)
    rows = {record["_step"]: record for record in records.history}
    assert [rows[step]["train/loss"] for step in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert rows[2]["validation/score"] == 0.5 and rows[2]["samples/captions"] == ["a TOK", "TOK & co"]
    for name in rows[2]["samples/filenames"]:
        assert next(tmp_path.glob(f"wandb/offline-run-*/files/{name}")).is_file()
    assert records.config["learning_rate"] == 3e-4 and records.config["machine"]["system"]
    assert records.exit_code == 0
    written = b"".join(path.read_bytes() for path in (tmp_path / "wandb").rglob("*") if path.is_file())
    assert secret.encode() not in written and b"hush" not in written


def test_a_training_that_fails_is_not_finished_in_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from tests.job.wandb_file import wandb_records

    def failing() -> Iterator[Progress]:
        yield Progress("step", 0.5, step=1)
        raise RuntimeError("it burns")

    monkeypatch.setenv("WANDB_MODE", "offline")
    output = OutputFolder(tmp_path)
    trackers = start_trackers(("wandb",), {}, output, 0)
    with pytest.raises(RuntimeError, match="it burns"):
        list(followed(failing(), trackers, output, 0))
    assert wandb_records(tmp_path).exit_code == 1


def test_wandb_without_a_key_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    """The check runs in a process of its own, because W&B keeps what it has read from the environment."""
    pytest.importorskip("wandb")
    program = (
        "from settings.training import TrainingConfig\nfrom job.trackers import require_trackers\n"
        "require_trackers(TrainingConfig(trackers=('wandb',)))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    without_key = {**kept, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=without_key, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ConfigError: trackers: W&B: No API key" in done.stderr and "WANDB_MODE=offline" in done.stderr


def run_steps(config: TrainingConfig, output: OutputFolder, first: int, steps: Sequence[int]) -> None:
    """Writes and logs what a training writes: a row each step, a score and samples every second step."""

    def events() -> Iterator[Progress]:
        for step in steps:
            with output.metrics.open("a") as file:
                file.write(json.dumps({"step": step, "loss": float(step), "losses": {"mse": 10 * step}}) + "\n")
            yield Progress("step", 0.5, step=step)
            if step % 2 == 0:
                with output.validation.open("a") as file:
                    file.write(json.dumps({"step": step, "score": step / 4}) + "\n")
                for index in range(2):
                    save(output.samples_of_step(step) / f"{index:02d}.png", (step, 200 * index, 0))
                output.step_prompts.write_text('["a TOK", "TOK & co"]')

    trackers = start_trackers(config.trackers, config.model_dump(mode="json"), output, first)
    list(followed(events(), trackers, output, first))
