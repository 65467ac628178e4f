"""Tests of trainings that do not finish: one line states what happened and one what is kept, the exit status depends on
the kind of error, and an expected error has no stack trace."""

import errno
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from job.endings import (
    CRASHED,
    DISK_FULL,
    DIVERGED,
    NOT_VERIFIED,
    OUT_OF_MEMORY,
    STOPPED,
    Stopped,
    ending_of,
    what_is_kept,
)
from job.output_folder import OutputFolder
from job.verification.verify import VerificationFailed
from preprocess.errors import DatasetError
from service.train_command import main
from settings.command_line.parser import WRONG_INPUT
from settings.record import ConfigError
from tests.conftest import EXAMPLE, png
from tests.fast_part import slow_but
from trainer.trainables.trainable import TrainingDiverged

SETTINGS = [
    "--base_model", "mini-sdxl", "--captioner", "none", "--class_word", "robot", "--max_train_steps", "3",
    "--rank", "2", "--train_batch_size", "2", "--num_validation_images", "1", "--num_inference_steps", "1",
    "--evaluate", "false",
]  # fmt: skip
FULL = OSError(errno.ENOSPC, "No space left on device", "somewhere")
FULL_IN_WORDS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("rank: wrong"), WRONG_INPUT, "error: rank: wrong"),
        (DatasetError("no images"), WRONG_INPUT, "error: no images"),
        (TrainingDiverged("at step 3"), DIVERGED, "error: at step 3"),
        (VerificationFailed("a table"), NOT_VERIFIED, "error: a table"),
        (FULL, DISK_FULL, "error: the disk is full while sampling ([Errno 28] No space left on device: 'somewhere')"),
        (OSError(errno.EDQUOT, "Quota"), DISK_FULL, "error: the disk is full while sampling ([Errno 122] Quota)"),
        (FULL_IN_WORDS, DISK_FULL, f"error: the disk is full while sampling ({FULL_IN_WORDS})"),
        (torch.OutOfMemoryError("CUDA"), OUT_OF_MEMORY, "error: out of memory while sampling: CUDA"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), CRASHED,
         "error: /x: Permission denied while sampling"),
        (Stopped(), STOPPED, "stopped while sampling"),
    ],
)  # fmt: skip
def test_each_kind_has_a_line_and_a_status(error: BaseException, status: int, text: str) -> None:
    ending = ending_of(error, "sample")
    assert ending is not None and (ending.status, ending.text) == (status, text)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyError("x"), OSError("no number"), SafetensorError("x")])
def test_what_no_one_expects_keeps_its_trace(error: Exception) -> None:
    assert ending_of(error, None) is None


def test_the_way_on_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "my photos")
    (output.checkpoints / "step_000002").mkdir(parents=True)
    kept = what_is_kept(output)
    assert kept is not None and shlex.split(kept.partition("with ")[2])[-1] == str(output.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "error", "status", "said", "kept"),
    [
        ("job.stages.sample.write_samples", Stopped(), STOPPED, "stopped while sampling", True),
        ("job.stages.verify.compare", Stopped(), STOPPED, "stopped while verifying", True),
        ("job.stages.report.write_report", FULL, DISK_FULL, "the disk is full while writing the report", True),
        ("job.steps.training.WorkOfSteps.after", FULL, DISK_FULL, "the disk is full while training", True),
        ("artifact.safetensors_file.save_file", FULL_IN_WORDS, DISK_FULL, "the disk is full while training", False),
        ("job.stages.cache.encoding_dataset", Stopped(), STOPPED, "stopped while caching the latents", False),
        ("job.stages.prepare.preparing", FULL, DISK_FULL, "the disk is full while preparing the images", False),
    ],
)  # fmt: skip
def test_at_any_moment_it_says_what_is_kept(
    place: str,
    error: BaseException,
    status: int,
    said: str,
    kept: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    monkeypatch.setattr(place, raising(error))
    assert main([str(EXAMPLE), *SETTINGS, "--output", str(output)]) == status
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-2] and "Traceback" not in "\n".join(lines)
    if not kept:
        assert lines[-1] == "nothing was saved" and not output.exists()
        return
    weights = output / "weights.safetensors"
    assert lines[-1].startswith(f"the result so far is in {weights}") and weights.exists()
    resumes = (output / "checkpoints").exists()
    assert ("--resume latest" in lines[-1]) == resumes and resumes == ("after" not in place)


@pytest.mark.slow
def test_stopped_while_sampling_it_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("job.stages.sample.write_samples", raising(Stopped()))
        main([str(EXAMPLE), *SETTINGS, "--output", str(output)])
    weights = (output / "weights.safetensors").stat().st_size
    assert main(["--resume", "latest", "--output", str(output)]) == 0
    assert (output / "samples" / "00.png").exists() and (output / "report.html").exists()
    assert (output / "weights.safetensors").stat().st_size == weights
    assert "resuming after step 3" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["10", "1e38"])
def test_a_rate_that_diverges(rate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    settings = [*SETTINGS, "--learning_rate", rate, "--lr_warmup_steps", "0", "--max_train_steps", "40"]
    status = main([str(EXAMPLE), *settings, "--output", str(output)])
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "\n".join(lines)
    if rate == "1e38":
        assert status == WRONG_INPUT and not output.exists()
        return
    assert status == DIVERGED and "Lower the learning rates" in lines[-2], lines[-3:]
    assert (output / "metrics.jsonl").exists()


@pytest.mark.parametrize("made", slow_but([False], [False, True]))
def test_a_refused_run_leaves_no_folder(made: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "a.png").write_bytes(png(size=(4, 4)))
    if made:
        output.mkdir()
    command = [str(data), *SETTINGS, "--output", str(output)]
    assert main(command) == WRONG_INPUT
    assert output.exists() == made and not (made and any(output.iterdir()))
    for number in range(3):
        (data / f"{number}.png").write_bytes(png(colour=(80 * number, 40, 9)))
    assert main(command) == 0, capsys.readouterr().err


def test_a_refused_resumption_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main([str(EXAMPLE), *SETTINGS, "--output", str(output)]) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert main([str(EXAMPLE), "--resume", "latest", "--output", str(output), "--max_train_steps", "2"]) == WRONG_INPUT
    assert main([str(tmp_path), "--resume", "latest", "--output", str(output)]) == WRONG_INPUT
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert "the data differ" in capsys.readouterr().err
