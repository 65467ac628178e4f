"""Two real processes train what one trains with the double batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from tests.conftest import EXAMPLE, PROJECT
from tests.shared_training import shared_curve
from tests.tiny_models import write_sdxl

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "0")  # fmt: skip
SETTINGS = ("--class_word", "robot", "--rank", "2", "--num_tokens", "1", "--num_validation_images", "0",
            "--lr_scheduler", "constant", "--lr_warmup_steps", "0", "--evaluate", "false", "--captioner", "none",
            "--resolution", "64", "--checkpointing_steps", "2")  # fmt: skip


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, timeout=300)


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_losses_are_those_of_one_process_with_the_double_batch(tmp_path: Path) -> None:
    base = str(write_sdxl(tmp_path / "base"))
    result = run(*TORCHRUN, "-m", "tests.shared_training", base, str(tmp_path / "curve.json"))
    assert result.returncode == 0, result.stderr
    together = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    alone = shared_curve(base, Accelerator(cpu=True))
    assert len(together) == len(alone) == 4
    for ours, wanted in zip(together, alone, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_a_whole_run_in_two_processes_ends_early_and_goes_on(tmp_path: Path) -> None:
    output, base = tmp_path / "out", str(write_sdxl(tmp_path / "base"))
    start = (*ACCELERATE, "train.py")
    first = run(*start, str(EXAMPLE), "--output", str(output), "--base_model", base, *SETTINGS,
                "--train_batch_size", "2", "--max_train_steps", "4")  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert first.stdout.count(str(output / "weights.safetensors")) == 1
    assert [line["step"] for line in metrics(output)] == [1, 2, 3, 4]
    assert json.loads((output / "report.json").read_text(encoding="utf-8"))["verification"]
    once = metrics(output)
    (output / "checkpoints" / "step_000004").rename(tmp_path / "away")
    again = run(*start, "--resume", "latest", "--output", str(output))
    assert again.returncode == 0, again.stderr
    assert [line["losses"] for line in metrics(output)] == [line["losses"] for line in once]
    alone = run(sys.executable, "train.py", "--resume", str(tmp_path / "away"), "--max_train_steps", "5")
    assert alone.returncode == 2 and "was trained by 2 processes" in alone.stderr
