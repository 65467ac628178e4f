"""Tests that the base of an artifact in its run's folder is found, although the artifact names it without a path."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

from artifact.artifact import Artifact
from artifact.layers import LoraLayer
from artifact.metadata import ArtifactDescription
from sampler.local_base import read_local
from sampler.weights import read_weights


def write_artifact(path: Path, base_model: str) -> Artifact:
    path.parent.mkdir(parents=True, exist_ok=True)
    description = ArtifactDescription(
        "sdxl", base_model, "f", "epsilon", {}, 1, config={"base_config": "configuration"}
    )
    layers = {"unet.a": LoraLayer(torch.ones(1, 4), torch.ones(4, 1), alpha=1.0)}
    artifact = Artifact(layers, {}, description)
    artifact.write(path, "fp16", architecture="stable-diffusion-xl-v1-base", base_model_version="sdxl_base_v1-0")
    return artifact


def test_the_run_s_own_config_has_the_path(tmp_path: Path) -> None:
    base = str(tmp_path / "models" / "base.safetensors")
    settings = {"base_model": base, "base_config": str(tmp_path / "configuration")}
    run = tmp_path / "run"
    for path in (run / "weights.safetensors", run / "checkpoints" / "step_000010" / "weights.safetensors"):
        write_artifact(path, "base.safetensors")
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        description = read_local(path).description
        assert description is not None and description.base_model == base
        assert description.config["base_config"] == settings["base_config"]
    (lora,) = read_weights(str(run / "weights.safetensors"), "1", local_files=True)
    assert lora.artifact.description is not None and lora.artifact.description.base_model == base


def test_another_base_s_config_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    written = write_artifact(path, "base.safetensors").description
    for text in ("base_model: /elsewhere/other.safetensors", "no mapping", "{", "base_model: [1]"):
        (tmp_path / "config.yaml").write_text(text)
        description = read_local(path).description
        assert description is not None and written is not None
        assert description.base_model == written.base_model == "base.safetensors"
        assert replace(description, config={}) == replace(written, config={})
