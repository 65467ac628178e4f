"""Tests that two real processes prepare the same files as one process, and train as one process does with twice the
batch size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator

from families.registry import load_base_model
from job.output_folder import OutputFolder
from preprocess.dataset import PreparedDataset
from preprocess.workers.workers import SINGLE_PROCESS
from service.cog_training import TrainingFailed, train_in_child_process
from settings.record import ConfigError
from tests.conftest import EXAMPLE, PROJECT
from tests.families.golden_curves import curve_config, curve_training
from tests.service.training_requests import training_request
from tests.tiny_models import write_sdxl
from tests.trainer.distributed.shared_preparation import contents, prepared, write_shards
from tests.trainer.distributed.shared_training import shared_curves
from tests.warm_process import run_group
from trainer.checkpoints.training_state import capture, restore
from trainer.distributed.launch import processes_of_a_job

ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "0")  # fmt: skip
JOB = {
    "class_word": "robot", "rank": 2, "num_tokens": 1, "num_validation_images": 0, "lr_warmup_steps": 0,
    "evaluate": "false", "captioner": "none", "resolution": 64, "checkpointing_steps": 1, "max_train_steps": 3,
    "train_batch_size": 2,
}  # fmt: skip


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, timeout=300)


def metrics(output: OutputFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.metrics.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_losses_are_those_of_one_process_with_the_double_batch(tmp_path: Path) -> None:
    base = str(write_sdxl(tmp_path / "base"))
    for each in run_group(
        ["-m", "tests.trainer.distributed.shared_training", base, str(tmp_path / "curve.json")], PROJECT
    ):
        assert each.returncode == 0, each.stderr
    together = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    alone = shared_curves(base, Accelerator(cpu=True))
    assert together.keys() == alone.keys() == {"lora", "full"}
    for kind, curve in alone.items():
        assert len(together[kind]) == len(curve) >= 2
        for ours, wanted in zip(together[kind], curve, strict=True):
            # the prior's differences are so small that rounding is the largest part of them
            assert ours == pytest.approx(wanted, rel=3e-4)
    assert together["lora"][2]["prior_matching"] > 0  # the third step uses trajectories
    losses = [[step["mse"] for step in curves["full"]] for curves in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_a_whole_run_in_two_processes_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(write_sdxl(tmp_path / "base"))
    monkeypatch.setenv("TRAINING_PROCESSES", "2")
    monkeypatch.setenv("OUTPUTS_FOLDER", str(tmp_path))
    monkeypatch.setenv("TRUSTED_CALLERS", "1")  # permits a base model on this disk
    request = training_request(input_images=EXAMPLE, config=yaml.safe_dump({"base_model": base, **JOB}))
    output = train_in_child_process(request)
    assert output.weights.exists()
    assert json.loads(output.report.read_text(encoding="utf-8"))["verification"]
    once = metrics(output)
    assert [line["step"] for line in once] == [1, 2, 3]
    (output.checkpoints / "step_000003").rename(tmp_path / "away")
    again = run(*ACCELERATE, "train.py", "--resume", "latest", "--output", str(output.path))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(f"{output.weights}\n") == 1
    assert [line["losses"] for line in metrics(output)] == [line["losses"] for line in once]


@pytest.mark.slow
def test_an_error_of_the_main_process_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_CALLERS", "1")
    monkeypatch.setenv("TRAINING_PROCESSES", "2")
    monkeypatch.setenv("OUTPUTS_FOLDER", str(tmp_path))
    (tmp_path / "upload.zip").write_bytes(b"no archive")
    base = str(write_sdxl(tmp_path / "base"))
    with pytest.raises(TrainingFailed, match="neither a zip nor a tar archive"):
        train_in_child_process(
            training_request(input_images=tmp_path / "upload.zip", config=yaml.safe_dump({"base_model": base, **JOB}))
        )


@pytest.mark.slow
def test_two_processes_prepare_what_one_prepares(tmp_path: Path) -> None:
    source = write_shards(tmp_path / "shards")
    options = {"mask": "face", "crop": "face", "augmented_views": 2, "crop_jitter": 0.2}
    module = "tests.trainer.distributed.shared_preparation"
    for each in run_group(["-m", module, str(source), str(tmp_path / "two"), json.dumps(options)], PROJECT):
        assert each.returncode == 0, each.stderr
    alone = prepared([source], tmp_path / "one", SINGLE_PROCESS, **options)
    assert PreparedDataset.read(tmp_path / "two").digest() == alone.digest()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_shard_ends_both_on_any_rank(number: int, tmp_path: Path) -> None:
    source, base = write_shards(tmp_path / "shards"), str(write_sdxl(tmp_path / "base"))
    (source / f"shard-{number:03d}.tar").write_bytes(b"no archive")
    options = [f"--{name}={value}" for name, value in {"base_model": base, **JOB}.items()]
    results = run_group(["train.py", str(source), "--output", str(tmp_path / "out"), *options], PROJECT)
    assert all(each.returncode != 0 for each in results)
    said = [line for each in results for line in each.stderr.splitlines() if line.startswith("error: ")]
    assert said == [f"error: shard-{number:03d}.tar: is neither a zip nor a tar archive. Pack the images into a .zip."]


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"TRAINING_PROCESSES": "3", "CUDA_VISIBLE_DEVICES": "0,1"}, 3),
        ({"CUDA_VISIBLE_DEVICES": "0, 2"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1),
    ],
)
def test_a_job_gets_every_visible_gpu(environment: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINING_PROCESSES", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes_of_a_job() == count


def test_a_wrong_number_of_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINING_PROCESSES", "all")
    with pytest.raises(ConfigError, match="is not a number of processes"):
        processes_of_a_job()


def test_a_checkpoint_of_other_processes_is_refused(tmp_path: Path) -> None:
    family = load_base_model(str(write_sdxl(tmp_path / "base")), torch.float32)
    with curve_training(family, curve_config(str(tmp_path / "base"))) as training:
        state = {**capture(training), "processes": 2}
        with pytest.raises(ConfigError, match="trained by 2 processes"):
            restore(training, state)
