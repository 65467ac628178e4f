"""Tests that two processes, each with a half of the weights, fine-tune a whole model as one process does, and write a
model folder at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor

from artifact.artifact import Artifact
from families.loading.sources import EMBEDDED_BASE_FOLDER
from families.registry import load_base_model
from job.output_folder import OutputFolder
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE, PROJECT
from tests.trainer.distributed.test_several_processes import metrics
from tests.warm_process import run_group, run_warm
from trainer.checkpoints.same_run import OUTLINE, require_same_sharding

SETTINGS: dict[str, Any] = {
    "class_word": "robot", "adapter": "full", "learning_rate": 1e-4, "train_text_encoder": True, "ema_decay": 0.9,
    "num_tokens": 1, "lr_warmup_steps": 0, "captioner": "none", "resolution": 64, "max_train_steps": 3,
    "checkpointing_steps": 1, "evaluate": "false", "num_validation_images": 1, "num_inference_steps": 1,
    "validation_steps": 3, "prior_matching_weight": 0.5, "prior_matching_interval": 1,
    "prior_matching_on": "everything", "mixed_precision": "no", "save_model": "diffusers",
}  # fmt: skip


def command(output: OutputFolder, base: Path, **settings: Any) -> list[str]:
    options = [f"--{name}={value}" for name, value in {"base_model": base, **SETTINGS, **settings}.items()]
    return ["train.py", str(EXAMPLE), "--output", str(output.path), *options]


def losses(output: OutputFolder) -> list[float]:
    return [value for line in metrics(output) for value in line["losses"].values()]


@pytest.mark.slow
def test_two_processes_train_export_and_resume_as_one(tmp_path: Path) -> None:
    base = EMBEDDED_BASE_FOLDER
    one, two = OutputFolder(tmp_path / "one"), OutputFolder(tmp_path / "two")
    for each in run_group(command(two, base, train_batch_size=2, shard_base=True), PROJECT):
        assert each.returncode == 0, each.stderr
    alone = run_warm(command(one, base, train_batch_size=4), PROJECT)
    assert alone.returncode == 0, alone.stderr
    assert len(losses(two)) == 6 and losses(two) == pytest.approx(losses(one), rel=1e-5)
    _require_equal_weights(two, one)
    _require_model(two, base)
    once, weights = losses(two), load_file(two.weights)
    (two.checkpoints / "step_000003").rename(tmp_path / "away")
    (shard,) = (two.checkpoints / "step_000002" / "shards" / "lora").glob("shard-00002-*.safetensors")
    assert 0.3 < sum(each.nbytes for each in load_file(shard).values()) / (4 * 4 * _trained(two)) < 0.6
    for each in run_group(["train.py", "--resume", "latest", "--output", str(two.path)], PROJECT):
        assert each.returncode == 0, each.stderr
    assert losses(two) == once
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(two.weights).items())


def _trained(output: OutputFolder) -> int:
    """Number of the denoiser's trained values."""
    return sum(tensor.numel() for tensor in _differences(output))


def _differences(output: OutputFolder) -> list[Tensor]:
    """The differences of the denoiser's weights in the output's file."""
    layers = Artifact.read(output.weights).layers
    return [tensor for name, layer in layers.items() if "unet" in name for tensor in layer.parameters]


def _require_equal_weights(two: OutputFolder, one: OutputFolder) -> None:
    """Asserts that the weights are almost equal. AdamW's first steps have the size of the learning rate for any
    gradient, so rounding changes weights whose gradient is near 0."""
    found, wanted = load_file(two.weights), load_file(one.weights)
    assert found.keys() == wanted.keys()
    moved = torch.cat([tensor.flatten().float() for tensor in wanted.values()])
    apart = torch.cat([(found[name] - tensor).flatten().float() for name, tensor in wanted.items()])
    assert moved.abs().max() > 1e-4 and apart.norm() < 1e-2 * moved.norm()


def _require_model(output: OutputFolder, base: Path) -> None:
    """Asserts that diffusers opens the model folder, and that it is the base model with the file's differences."""
    unet = StableDiffusionXLPipeline.from_pretrained(output.model_folder, local_files_only=True).unet
    before = load_base_model(str(base), torch.float32).denoiser.state_dict()
    moved = sum(float((new - before[name]).abs().sum()) for name, new in unet.state_dict().items())
    told = sum(float(tensor.abs().sum()) for tensor in _differences(output))
    assert told > 0 and moved == pytest.approx(told, rel=1e-2)
    assert json.loads(output.report.read_text(encoding="utf-8"))["verification"]["difference"] < 1e-3


@pytest.mark.parametrize("optimizer", ["prodigy", "adafactor", "came", "muon", "lion", "adamw_schedule_free"])
def test_optimizers_that_need_whole_weights_are_refused(optimizer: str) -> None:
    with pytest.raises(ConfigError, match=f"{optimizer} does not support; choose optimizer: adamw or adamw_8bit"):
        build_config({"shard_base": True, "adapter": "full", "learning_rate": 1.0, "optimizer": optimizer})


def test_evaluation_is_refused() -> None:
    with pytest.raises(ConfigError, match="evaluate: true applies checkpoints to whole weights"):
        build_config({"shard_base": True, "adapter": "full", "learning_rate": 1e-5, "evaluate": "true"})


@pytest.mark.parametrize(
    ("state", "sharded", "remedy"), [({OUTLINE: {}}, False, "set it"), ({"parameters": []}, True, "leave it out")]
)
def test_a_checkpoint_of_whole_weights_is_no_checkpoint_of_shards(
    state: dict[str, Any], sharded: bool, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=f"resume: shard_base must not change .*{remedy}"):
        require_same_sharding(state, sharded)
