"""Tests that a run that is stopped after any message of any step and resumed has the same weights, scores and samples
as one that was not stopped."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from job.output_folder import OutputFolder
from job.resume import resume
from job.run import run
from settings.training import TrainingConfig, build_config
from tests.conftest import EXAMPLE
from trainer.checkpoints.folders import Checkpoints

SETTINGS: dict[str, Any] = {
    "base_model": "mini-sdxl", "class_word": "figure", "max_train_steps": 5, "train_batch_size": 2, "rank": 2,
    "num_tokens": 1, "captioner": "none", "save_precision": "fp32", "num_validation_images": 1,
    "num_inference_steps": 1, "learning_rate": 2e-2, "caption_dropout": 0.3, "evaluate": "false", "resolution": 64,
}  # fmt: skip
ALL_AT_ONCE: dict[str, Any] = {
    "validation_steps": 1, "validation_share": 0.2, "early_stopping_patience": 2, "checkpointing_steps": 1,
    "keep_checkpoints": 1, "sample_steps": 1,
}  # fmt: skip


def outcome(output: OutputFolder) -> dict[str, object]:
    """Returns the results of a run, without times: bytes of images and scores, tensors, steps, and checkpoints."""
    files = [output.validation, *sorted(output.samples.rglob("*.png"))]
    tensors = {name: tensor.numpy().tobytes() for name, tensor in load_file(output.weights).items()}
    return {
        "files": {str(path.relative_to(output.path)): path.read_bytes() for path in files if path.exists()},
        "tensors": tensors,
        "steps": [line.split(",")[0] for line in output.metrics.read_text().splitlines()],
        "checkpoints": Checkpoints(output.checkpoints).steps(),
        "due": Checkpoints(output.checkpoints).due_steps(),
    }


@pytest.mark.slow
def test_the_resumed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    stop_and_resume(build_config(SETTINGS | ALL_AT_ONCE | {"max_train_steps": 4}), tmp_path)


@pytest.mark.slow
def test_a_stop_at_the_last_step_where_all_is_due_loses_nothing(tmp_path: Path) -> None:
    """This once returned other weights: an earlier step was the best, because the last one was not scored."""
    kind = ALL_AT_ONCE | {"early_stopping_patience": None, "max_train_steps": 2}
    stop_and_resume(build_config(SETTINGS | kind), tmp_path, last_alone=True)


def stop_and_resume(config: TrainingConfig, tmp_path: Path, *, last_alone: bool = False) -> None:
    """Stops runs at every message of every step, or at the first message of the last one, and resumes them."""
    whole = OutputFolder.create(tmp_path / "whole")
    events = list(run(config, [EXAMPLE], whole))
    expected = outcome(whole)
    stops = [index for index, event in enumerate(events) if event.step]
    assert len(stops) >= 4
    if last_alone:
        stops = [next(index for index in stops if events[index].step == config.max_train_steps)]
    for number in stops:
        cut = OutputFolder.create(tmp_path / "cut")
        progress = run(config, [EXAMPLE], cut)
        for _ in range(number + 1):
            event = next(progress)
        progress.close()
        assert event.step in Checkpoints(cut.checkpoints).steps()
        resumed = resume("latest", cut.path, TrainingConfig(), [EXAMPLE])
        list(run(resumed.config, [], resumed.output, resumed.state))
        assert outcome(cut) == expected, event
        shutil.rmtree(cut.path)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, True, False])
def test_the_end_of_a_run_is_kept_to_go_on_from(keep: bool | None, tmp_path: Path) -> None:
    output = OutputFolder.create(tmp_path / "out")
    list(run(build_config(SETTINGS | {"keep_state": keep, "max_train_steps": 2}), [EXAMPLE], output))
    kept = Checkpoints(output.checkpoints)
    assert (kept.steps(), kept.due_steps()) == ([] if keep is False else [2], [])
    if keep is False:
        return
    more = resume("latest", output.path, TrainingConfig(max_train_steps=4), [EXAMPLE])
    steps = [event.step for event in run(more.config, [], more.output, more.state) if event.step]
    assert steps == [3, 4] and kept.steps() == [4]


@pytest.mark.slow
def test_a_state_that_is_large_is_kept_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("job.steps.training.KEPT_UNASKED", 1000)
    for keep, steps in ((None, []), (True, [1])):
        output = OutputFolder.create(tmp_path / str(keep))
        lines = [str(event) for event in run(
            build_config(SETTINGS | {"keep_state": keep, "max_train_steps": 1}), [EXAMPLE], output)]  # fmt: skip
        assert Checkpoints(output.checkpoints).steps() == steps
        assert any("is not kept; set keep_state: true to keep it" in line for line in lines) == (keep is None)
