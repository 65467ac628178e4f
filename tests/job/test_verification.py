"""Tests of what the verification of a finished file finds, and of its messages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from artifact.artifact import Artifact
from artifact.layers import LohaLayer, LoraLayer
from families.family import ModelFamily
from job.stages.verify import verification_warnings
from job.verification.verify import Probe, VerificationFailed, verify
from sampler.sampler import Sampler
from tests.artifact.test_artifact import make_artifact

Change = Callable[[Artifact], Artifact]


def without_a_layer(artifact: Artifact) -> Artifact:
    return replace(artifact, layers=dict(list(artifact.layers.items())[1:]))


def with_another_kind(artifact: Artifact) -> Artifact:
    name, layer = next(iter(artifact.layers.items()))
    down, up = layer.parameters
    a, b = up.flatten(1), down.flatten(1)
    loha = LohaLayer(a, b, a.clone(), b.clone(), 1.0)
    return replace(artifact, layers={**artifact.layers, name: loha})


def with_other_tokens(artifact: Artifact) -> Artifact:
    rows = artifact.tokens["clip_g"].clone()
    rows[0, 0] += 1e-6
    return replace(artifact, tokens={**artifact.tokens, "clip_g": rows})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_layer, r"FAILED +1 +≤ 0 +of 7 trained layers are missing, such as lora_unet_"),
        (with_another_kind, r"FAILED +1 +≤ 0 +layers differ by more than 2%(.|\n)*inf +loha +lora_unet_"),
        (with_other_tokens, r"FAILED +1 +≤ 0 +encoders have different token embeddings, such as clip_g"),
    ],
)
def test_a_file_that_differs_fails_with_a_table(
    change: Change, message: str, base: ModelFamily, tmp_path: Path
) -> None:
    artifact, probe, path = make_artifact(base), Probe.make(base, "a photo of TOK"), tmp_path / "weights.safetensors"
    untouched = probe.predict(base, {})
    _write(artifact, path, base)
    trained = _prediction(base, artifact, probe)
    verify(path, base, probe, untouched, trained, artifact)  # the unchanged file passes
    _write(change(artifact), path, base)
    with pytest.raises(VerificationFailed, match=message) as failure:
        verify(path, base, probe, untouched, trained, artifact)
    assert "ok" in str(failure.value) and path.is_file()
    assert torch.equal(probe.predict(base, {}), untouched)


def test_a_training_without_effect_is_known(base: ModelFamily, tmp_path: Path) -> None:
    artifact, probe, path = make_artifact(base), Probe.make(base, "a photo of TOK"), tmp_path / "weights.safetensors"
    untouched = probe.predict(base, {})
    faint = {
        name: replace(layer, alpha=1e-12) for name, layer in artifact.layers.items() if isinstance(layer, LoraLayer)
    }
    silent = replace(artifact, layers=faint)
    _write(silent, path, base)
    found = verify(path, base, probe, untouched, _prediction(base, silent, probe), silent)
    assert not found.learned and found.difference == pytest.approx(0, abs=1e-3)
    (warning,) = verification_warnings(found, "prodigy", 3)
    assert warning.startswith(
        "the training had no visible effect after 3 steps, because prodigy estimates its rate first"
    )
    (warning,) = verification_warnings(found, "adamw", 1, 0.001)
    assert warning == ("the training had no visible effect after 1 step; use at least 100 (max_train_minutes is 0.001)")
    _write(artifact, path, base)  # a file with an effect is not that of a training without one
    with pytest.raises(VerificationFailed, match="differs from the trained model"):
        verify(path, base, probe, untouched, _prediction(base, silent, probe), silent)


def test_values_too_small_for_half_precision_are_no_difference(base: ModelFamily, tmp_path: Path) -> None:
    """This occurs after a few steps with an optimizer that is still estimating its learning rate."""
    artifact, probe, path = make_artifact(base), Probe.make(base, "a photo of TOK"), tmp_path / "weights.safetensors"
    untouched = probe.predict(base, {})
    small = {
        name: replace(layer, up=layer.up * (1e-6 / layer.up.abs().max()))
        for name, layer in artifact.layers.items()
        if isinstance(layer, LoraLayer)
    }
    artifact = replace(artifact, layers=small)
    artifact.write(path, "fp16", architecture=base.architecture, base_model_version=base.base_model_version)
    found = verify(path, base, probe, untouched, _prediction(base, artifact, probe), artifact)
    assert not found.learned and found.untrained == 0


def test_layers_that_no_step_reached_are_counted(base: ModelFamily, tmp_path: Path) -> None:
    artifact, probe, path = make_artifact(base), Probe.make(base, "a photo of TOK"), tmp_path / "weights.safetensors"
    untouched = probe.predict(base, {})
    name, layer = next(iter(artifact.layers.items()))
    assert isinstance(layer, LoraLayer)
    fresh = replace(artifact, layers={**artifact.layers, name: replace(layer, up=torch.zeros_like(layer.up))})
    _write(fresh, path, base)
    found = verify(path, base, probe, untouched, _prediction(base, fresh, probe), fresh)
    assert (found.layers, found.untrained, found.example) == (7, 1, name)
    (warning,) = verification_warnings(found, "adamw", 100)
    assert warning.startswith(f"1 of 7 layers were never trained, such as {name}")


def _write(artifact: Artifact, path: Path, base: ModelFamily) -> None:
    artifact.write(path, "fp32", architecture=base.architecture, base_model_version=base.base_model_version)


def _prediction(base: ModelFamily, artifact: Artifact, probe: Probe) -> torch.Tensor:
    sampler = Sampler(base)
    sampler.load(artifact)
    try:
        return probe.predict(base, sampler.triggers)
    finally:
        sampler.unload()
