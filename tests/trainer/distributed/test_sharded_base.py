"""Tests that two real processes with a sharded base model train as one process does with the whole one, and that each
stores half of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from accelerate import Accelerator

from families.registry import load_base_model
from job.endings import STOPPED
from job.output_folder import OutputFolder
from job.progress import Progress
from service.processes import child_process
from service.train_command import main
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE, PROJECT
from tests.families.golden_curves import curve_config, curve_training
from tests.tiny_models import load_tiny, write_sd3, write_sdxl
from tests.trainer.distributed.sharded_training import FULL, sharded_curve
from tests.trainer.distributed.test_several_processes import ACCELERATE, metrics
from tests.warm_process import run_group
from trainer.distributed.launch import fsdp_requested
from trainer.distributed.sharded_base import require_shardable
from trainer.execution.accumulation import OutOfMemory

FSDP = (*("--use_fsdp" if word == "--multi_gpu" else word for word in ACCELERATE), "--fsdp_version", "2")
JOB = {
    "class_word": "robot", "rank": 2, "num_tokens": 1, "lr_warmup_steps": 0, "num_validation_images": 1,
    "num_inference_steps": 2, "captioner": "none", "resolution": 64, "checkpointing_steps": 1, "sample_steps": 2,
    "diagnostics_steps": 1, "validation_steps": 1, "max_train_steps": 3, "train_batch_size": 2, "evaluate": "false",
}  # fmt: skip
EVALUATION = {
    "evaluate": "true", "evaluation_clip": "mini-sdxl", "evaluation_dino": "none", "evaluation_samples": 1,
    "evaluation_scales": [1.0], "evaluation_checkpoints": 1,
}  # fmt: skip


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, timeout=300)


def write_job(folder: Path, **settings: object) -> str:
    base = str(write_sd3(folder / "base"))
    (folder / "job.yaml").write_text(yaml.safe_dump({"base_model": base, **JOB, **settings}), encoding="utf-8")
    return str(folder / "job.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (write_sd3, {}),
        (write_sdxl, {"adapter": "rslora", "gradient_checkpointing": "always",
                      "lora_targets": "attention+feed-forward"}),
        (write_sd3, {"lora_target_regex": r"transformer_blocks\.1\..*to_[qkv]", "token_learning_rate": 0}),
        (write_sdxl, FULL),
    ],
    ids=["lora", "unet with gradient checkpointing", "one block alone", "full"],
)  # fmt: skip
def test_it_trains_the_same_with_half_of_the_base(
    write: Callable[[Path], Path], changes: dict[str, Any], tmp_path: Path
) -> None:
    base = str(write(tmp_path / "base"))
    module = "tests.trainer.distributed.sharded_training"
    for each in run_group(["-m", module, base, str(tmp_path / "found.json"), json.dumps(changes)], PROJECT):
        assert each.returncode == 0, each.stderr
    processes = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    alone = sharded_curve(base, tmp_path / "one", Accelerator(cpu=True), **changes)
    assert len(processes) == 2
    assert alone["held"] == alone["gathered"] == alone["left"] == [1.0] * 4
    for found in processes:
        assert found["held"] == pytest.approx([0.5] * 4, abs=0.02)
        assert found["gathered"] == [1.0] * 4
        assert found["left"] == [0.0] * 4 and found["alive"] == 0
        assert found["alone"] == []
        for ours, wanted in zip(found["curve"], alone["curve"], strict=True):
            assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_a_whole_run_and_its_resumption(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "out")
    config = write_job(tmp_path, **EVALUATION)
    start = run(*FSDP, "train.py", str(EXAMPLE), "--config", config, "--output", str(output.path))
    assert start.returncode == 0, start.stderr
    assert start.stdout.count(f"{output.weights}\n") == 1
    assert json.loads(output.report.read_text(encoding="utf-8"))["verification"]
    assert (output.samples / "00.png").exists() and (output.samples_of_step(2) / "00.png").exists()
    assert yaml.safe_load(output.config.read_text(encoding="utf-8"))["shard_base"] is True
    once = metrics(output)
    assert [line["step"] for line in once] == [1, 2, 3]
    (output.checkpoints / "step_000003").rename(tmp_path / "away")
    for again in run_group(["train.py", "--resume", "latest", "--output", str(output.path)], PROJECT):
        assert again.returncode == 0, again.stderr
    assert [line["losses"] for line in metrics(output)] == [line["losses"] for line in once]


@pytest.mark.slow
def test_stopping_it_saves_what_was_trained_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "SECONDS_TO_SAVE", 60)
    config = write_job(tmp_path, max_train_steps=2000, sample_steps=None, shard_base=True)
    command = [sys.executable, "-m", "trainer.distributed.launcher", "2", "train.py", str(EXAMPLE), "--config", config]
    job = child_process.ChildProcess.start([*command, "--output", str(tmp_path / "out"), "--progress_json"])
    progress = (Progress.from_line(line) for line in job.lines())
    assert any(each is not None and each.step == 2 for each in progress)
    processes = psutil.Process(job._process.pid).children(recursive=True)
    assert len(processes) == 2
    job.stop()
    assert job.exit_status() == STOPPED
    assert "continue with --resume latest" in "".join(job.lines())
    assert OutputFolder(tmp_path / "out").weights.exists()
    assert not any(process.is_running() for process in processes)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FSDP_VERSION": "1"}, "--fsdp_version 2"),
        ({}, "--fsdp_version 2"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "not offloaded"),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "gradient_checkpointing: always"),
        ({"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "false"}, "always resharded"),
        ({"FSDP_VERSION": "2"}, "needs several processes"),
    ],
)
def test_unsupported_options_of_accelerate(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", **environment}.items():
        monkeypatch.setenv(name, value)
    assert main([str(EXAMPLE)]) == 2
    assert said in capsys.readouterr().err


def test_other_ways_to_shard_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="DEEPSPEED: .*--use_fsdp --fsdp_version 2"):
        fsdp_requested()


def test_the_setting_may_not_contradict_accelerate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([str(EXAMPLE), "--shard_base", "false"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize("adapter", ["dora", "loha", "lokr", "oft"])
def test_adapters_that_need_whole_weights_are_refused(adapter: str) -> None:
    with pytest.raises(ConfigError, match=f"shard_base: adapter: {adapter}"):
        build_config({"shard_base": True, "adapter": adapter, "learning_rate": 1e-4})


@pytest.mark.parametrize("compilation", ["auto", "always"])
def test_compilation_is_refused(compilation: str) -> None:
    with pytest.raises(ConfigError, match="set compile: never"):
        build_config({"shard_base": True, "compile": compilation})


def test_a_denoiser_without_blocks_is_refused(tmp_path: Path) -> None:
    family: Any = load_tiny("sdxl", tmp_path / "base")
    require_shardable("sdxl", family)
    family.denoiser._repeated_blocks = family.denoiser._no_split_modules = []
    with pytest.raises(ConfigError, match="has no repeated blocks"):
        require_shardable("sdxl", family)


def test_out_of_memory_a_step_cannot_start_over(tmp_path: Path) -> None:
    family = load_base_model(str(write_sd3(tmp_path / "base")), torch.float32)
    with curve_training(family, curve_config(str(tmp_path / "base"), shard_base=True)) as training:

        def overflow(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory (a pretence)")

        family.denoiser.forward = overflow
        with pytest.raises(OutOfMemory, match="gradient_checkpointing: always, or a smaller train_batch_size"):
            next(training.trainer.steps())
