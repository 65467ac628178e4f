"""Tests of LoRA training with a quantised base model (`base_precision`): losses, resuming, and the file."""

from pathlib import Path

import pytest
import torch

from artifact.artifact import Artifact
from families.family import ModelFamily
from families.loading.fingerprint import fingerprint
from families.precision.formats import PrecisionOfBase
from families.precision.stored_blocks import Storage, is_stored, place, store_blocks
from families.precision.stored_linear import StoredLinear
from job.output_folder import OutputFolder
from job.run import run
from sampler.sampler import Sampler, SampleRequest
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE
from tests.families.golden_curves import Curve, curve, curve_config, curve_training
from tests.tiny_models import TINY_MODELS, load_tiny, opened
from trainer.checkpoints.folders import Checkpoints, read_checkpoint
from trainer.checkpoints.training_state import restore

CPU = torch.device("cpu")
SLOW = pytest.mark.slow
STEPS = 3
FURTHEST = {"int8": 0.01, "fp8": 0.03, "nf4": 0.1}
"""Largest relative difference of the losses from those with the unquantised base."""


def losses(family: ModelFamily, base: Path) -> Curve:
    with curve_training(family, curve_config(str(base), max_train_steps=STEPS)) as training:
        return curve(training)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("flux1", "fp8"),
        ("sdxl", "int8"),
        ("sd3", "nf4"),
    ],
)
def test_losses_lie_beside_those_on_the_whole_base(kind: str, precision: PrecisionOfBase, tmp_path: Path) -> None:
    family = load_tiny(kind, tmp_path)
    before, whole = fingerprint(family.denoiser), losses(family, tmp_path)
    place(family, Storage(precision), CPU)
    assert is_stored(family.denoiser) and fingerprint(family.denoiser) == before
    fewer = losses(family, tmp_path)
    assert fewer != whole
    for one, other in zip(fewer, whole, strict=True):
        assert one["mse"] == pytest.approx(other["mse"], rel=FURTHEST[precision])


@pytest.mark.slow
def test_a_resumed_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    family = load_tiny("sd3", tmp_path / "base")
    checkpoints, config = Checkpoints(tmp_path), curve_config(str(tmp_path / "base"), max_train_steps=STEPS)
    store_blocks(family.denoiser, Storage("int8"), CPU)
    with curve_training(family, config) as training:
        expected = []
        for step in training.trainer.steps():
            expected.append(step.losses)
            if step.number == 2:
                checkpoints.write(training)
    again = opened(tmp_path / "base")
    store_blocks(again.denoiser, Storage("int8"), CPU)
    with curve_training(again, config) as training:
        restore(training, read_checkpoint(checkpoints.path(2)))
        assert [step.losses for step in training.trainer.steps()] == expected[2:]


@pytest.mark.slow
def test_a_job_in_fewer_bits(tmp_path: Path) -> None:
    """The job generates class images and samples, and verifies its file. The file has the fingerprint of the
    unquantised base, and changes that base's images."""
    base = TINY_MODELS["flux1"](tmp_path / "base")
    config = build_config(
        {
            "base_model": str(base), "base_precision": "int8", "offload": "always", "max_train_steps": 3, "rank": 4,
            "train_batch_size": 2, "learning_rate": 1e-2, "num_class_images": 1, "class_word": "figure",
            "num_validation_images": 1, "num_inference_steps": 2, "resolution": 64,
        }
    )  # fmt: skip
    output = OutputFolder.create(tmp_path / "out")
    events = [event.message for event in run(config, [EXAMPLE], output)]
    assert any(message.startswith("verified") for message in events)
    assert (output.samples / "00.png").is_file() and len(list(output.class_images.glob("*.png"))) == 1
    assert "base_precision: int8\n" in (output.path / "config.yaml").read_text()

    artifact, family = Artifact.read(output.weights), opened(base)
    assert artifact.description is not None and artifact.description.base_fingerprint == fingerprint(family.denoiser)
    sampler, request = Sampler(family), SampleRequest("a photo of TOK", width=64, height=64, num_inference_steps=2)
    bare = sampler.generate(request)
    sampler.load(artifact)
    assert sampler.generate(request)[0].tobytes() != bare[0].tobytes()


@pytest.mark.parametrize("kind", ["sdxl", pytest.param("z-image", marks=SLOW)])
def test_all_linear_layers_of_the_blocks_and_no_others(kind: str, tmp_path: Path) -> None:
    denoiser = load_tiny(kind, tmp_path).denoiser
    store_blocks(denoiser, Storage("int8"), CPU)
    linear = {path: module for path, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)}
    stored = {path for path, module in linear.items() if isinstance(module, StoredLinear)}
    blocks = ("transformer_blocks",) if kind == "sdxl" else ("layers", "noise_refiner", "context_refiner")
    assert stored == {path for path in linear if set(path.split(".")).intersection(blocks)} and stored != set(linear)
    assert denoiser.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_precision": "nf4", "adapter": "dora"}, "base_precision: nf4: adapter: dora reads or changes whole"),
        ({"base_precision": "int8", "adapter": "controlnet", "control": "canny"}, "base_precision: int8: adapter: c"),
        ({"offload": "always", "adapter": "lokr"}, "offload: always: adapter: lokr reads or changes whole weights"),
        ({"base_precision": "fp8", "shard_base": True}, "base_precision: fp8 does not work with shard_base"),
        ({"base_precision": "int4"}, "base_precision: .*'nf4' .given: 'int4'"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(settings)
