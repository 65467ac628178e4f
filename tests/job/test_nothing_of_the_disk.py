"""Tests that the files that a job returns contain no paths of its machine, and nothing of the environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from artifact.artifact import Artifact
from tests.conftest import EXAMPLE, PROJECT

pytestmark = pytest.mark.slow

SECRETS = {"HF_TOKEN": "hf_secretOfTheOperator", "WANDB_API_KEY": "w" * 40, "OPERATORS_OWN": "environment-secret-17"}
KEPT_ON_THE_MACHINE = {"config.yaml", "checkpoints"}
"""Files that a later run on this machine reads. They have the paths as given, and are never returned."""


def test_no_path_and_no_secret_is_in_what_is_returned(tmp_path: Path) -> None:
    disk = tmp_path / "operators-disk"
    shutil.copytree(PROJECT / "assets" / "mini-sdxl", disk / "a-base")
    shutil.copy(EXAMPLE, disk / "prior.zip")
    shutil.copy(EXAMPLE, disk / "photos.zip")
    out = tmp_path / "out"
    command = [
        sys.executable, "train.py", str(disk / "photos.zip"), "--output", str(out),
        "--base_model", str(disk / "a-base"),
        "--preservation_data", str(disk / "prior.zip"), "--compile", "auto", "--compile_cache", str(disk / "cache"),
        "--evaluation_clip", str(disk / "a-base" / "clip"), "--checkpointing_steps", "1", "--class_word", "figure",
        "--max_train_steps", "2", "--train_batch_size", "2", "--num_inference_steps", "1",
        "--num_validation_images", "1", "--resolution", "64", "--captioner", "none",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env={**os.environ, **SECRETS})
    assert result.returncode == 0, result.stderr
    described = Artifact.read(out / "weights.safetensors").description
    assert described is not None and described.base_model == "a-base"
    assert described.config["preservation_data"] == "prior.zip"
    host = [name for name in (os.uname().nodename,) if len(name) > 6]  # a short one may occur in an image's base64
    for forbidden in (str(disk), "operators-disk", str(tmp_path), str(PROJECT), *host, *SECRETS.values()):
        for path in returned_files(out):
            assert forbidden.encode() not in path.read_bytes(), f"{forbidden} is in {path.relative_to(out)}"
    for name in ("weights.safetensors", "embeddings.safetensors"):
        with safe_open(out / name, framework="pt") as file:
            assert str(tmp_path) not in str(file.metadata())


def returned_files(out: Path) -> list[Path]:
    files = [path for path in out.rglob("*") if path.is_file()]
    found = [path for path in files if path.relative_to(out).parts[0] not in KEPT_ON_THE_MACHINE]
    assert {"report.html", "report.json", "weights.safetensors", "dataset.html"} <= {path.name for path in found}
    return found
