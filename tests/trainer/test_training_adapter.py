"""Tests that a training adapter acts in training steps only, and that the base model stays the same bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from artifact.artifact import Artifact
from families.family import ModelFamily
from families.precision.stored_blocks import Storage, place
from job.output_folder import OutputFolder
from job.resume import resume
from job.run import run
from settings.record import ConfigError
from settings.training import build_config
from tests.conftest import EXAMPLE
from tests.families.golden_curves import curve_config, curve_training
from tests.families.test_family_files import predict
from tests.tiny_models import opened, write_flux1, write_z_image
from trainer.checkpoints.same_run import require_same_training_adapter
from trainer.training_adapter import TrainingAdapter, distillation_notes, read_training_adapter

PATHS = ("layers.0.attention.to_q", "layers.1.attention.to_out.0", "noise_refiner.0.feed_forward.w2")
RANK = 3


def write_adapter(path: Path, family: ModelFamily, paths: tuple[str, ...] = PATHS, seed: int = 0) -> Path:
    """Writes a LoRA with the keys that ai-toolkit uses."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in paths:
        out, inputs = family.denoiser.get_submodule(name).weight.shape
        tensors[f"diffusion_model.{name}.lora_A.weight"] = 0.5 * torch.randn(RANK, inputs, generator=generator)
        tensors[f"diffusion_model.{name}.lora_B.weight"] = 0.5 * torch.randn(out, RANK, generator=generator)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_z_image(tmp_path_factory.mktemp("turbo") / "base", turbo=True)


@pytest.fixture
def turbo(folder: Path) -> ModelFamily:
    return opened(folder)


def merged(family: ModelFamily, file: Path) -> Tensor:
    """Merges the adapter into the weights of `family`, and returns its prediction."""
    tensors = load_file(file)
    for name in PATHS:
        down, up = (tensors[f"diffusion_model.{name}.lora_{part}.weight"] for part in "AB")
        family.denoiser.get_submodule(name).weight.data += up @ down
    return predict(family)


def test_it_does_what_it_would_do_in_the_weights_and_leaves_no_trace(
    turbo: ModelFamily, folder: Path, tmp_path: Path
) -> None:
    file = write_adapter(tmp_path / "adapter.safetensors", turbo)
    bare = predict(turbo)
    adapter = TrainingAdapter(read_training_adapter(file, turbo), turbo.denoiser)
    beside = predict(turbo)
    torch.testing.assert_close(beside, merged(opened(folder), file), rtol=1e-4, atol=1e-5)
    assert (beside - bare).norm() > 0.05 * bare.norm()
    with adapter.off():
        assert torch.equal(predict(turbo), bare)
    assert torch.equal(predict(turbo), beside)
    adapter.remove()
    assert torch.equal(predict(turbo), bare)


def test_it_stands_beside_weights_of_fewer_bits_too(turbo: ModelFamily, tmp_path: Path) -> None:
    file = write_adapter(tmp_path / "adapter.safetensors", turbo)
    place(turbo, Storage("int8"), torch.device("cpu"))
    bare = predict(turbo)
    adapter = TrainingAdapter(read_training_adapter(file, turbo), turbo.denoiser)
    assert (predict(turbo) - bare).norm() > 0.05 * bare.norm()
    with adapter.off():
        assert torch.equal(predict(turbo), bare)


@pytest.mark.slow
def test_steps_are_those_on_the_merged_base(turbo: ModelFamily, folder: Path, tmp_path: Path) -> None:
    """Compares the losses of two steps with the adapter beside the weights, merged into them, and without it."""
    file = write_adapter(tmp_path / "adapter.safetensors", turbo)
    config, found = curve_config(str(folder), max_train_steps=2, lr_warmup_steps=0, gradient_accumulation_steps=1), []
    for way in ("beside", "merged", "without"):
        family = opened(folder)
        if way == "merged":
            merged(family, file)
        with curve_training(family, config) as training:
            if way == "beside":
                training.training_adapter = TrainingAdapter(read_training_adapter(file, family), family.denoiser)
            found.append(torch.tensor([step.loss for step in training.trainer.steps()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert (found[0] - found[2]).abs().max() > 5e-3


@pytest.mark.slow
def test_a_run_keeps_it_out_of_samples_and_result_and_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    """Verification compares the trained model's prediction with that of the file on the base model without the training
    adapter."""
    file = write_adapter(tmp_path / "adapter.safetensors", opened(folder))
    settings: dict[str, Any] = {
        "base_model": str(folder), "training_adapter": file, "captioner": "none", "max_train_steps": 3, "rank": 2,
        "resolution": 32, "train_batch_size": 2, "num_validation_images": 1, "learning_rate": 1e-2, "evaluate": "false",
        "checkpointing_steps": 1, "sample_steps": 3, "keep_checkpoints": 3, "save_precision": "fp32",
    }  # fmt: skip
    output = OutputFolder.create(tmp_path / "run")
    lines = [str(event) for event in run(build_config(settings), [EXAMPLE], output)]
    assert not any("removes the distillation" in line for line in lines)
    assert any(line.startswith("verified: the file reproduces the trained model") for line in lines)
    step = (output.samples_of_step(3) / "00.png").read_bytes()
    assert step == (output.samples / "00.png").read_bytes()  # generated during training, and after it
    whole = Artifact.read(output.weights)
    assert whole.description is not None and whole.description.config["training_adapter"] == file.name
    assert whole.description.config["num_inference_steps"] == 9 and whole.description.config["guidance_scale"] == 0
    for number in (2, 3):
        (output.checkpoints / f"step_{number:06d}").rename(tmp_path / f"later_{number}")
    again = resume("latest", output.path, build_config({}))
    list(run(again.config, [], again.output, again.state))
    resumed = Artifact.read(output.weights)
    for name, layer in whole.layers.items():
        assert all(torch.equal(*pair) for pair in zip(layer.parameters, resumed.layers[name].parameters, strict=True))


def test_another_file_is_another_training() -> None:
    require_same_training_adapter({}, None)
    for state in ({}, {"training_adapter": "a"}, {"training_adapter": None}):
        with pytest.raises(ConfigError, match="the file of training_adapter changed"):
            require_same_training_adapter(state, "b")


def test_what_is_none_is_refused_before_weights_are_loaded(turbo: ModelFamily, tmp_path: Path) -> None:
    flux = opened(write_flux1(tmp_path / "flux1"))
    other = write_adapter(tmp_path / "flux.safetensors", flux, ("transformer_blocks.0.attn.to_q",))
    none = tmp_path / "none.safetensors"
    none.write_bytes(b"no")
    change = tmp_path / "full.safetensors"
    save_file({f"transformer.{PATHS[0]}.diff": torch.ones(32, 32)}, change)
    for path, said in (
        (tmp_path / "missing.safetensors", "is not a file"),
        (other, "do not exist in this base model"),
        (none, "not a readable"),
        (change, "is not a plain LoRA"),
    ):
        with pytest.raises(ConfigError, match=f"^training_adapter: .*{said}"):
            read_training_adapter(path, turbo)


@pytest.mark.parametrize(
    "values",
    [{"adapter": "dora"}, {"adapter": "full", "mixed_precision": "no", "learning_rate": 1e-5}, {"lora_init": "pissa"},
     {"shard_base": True}],
)  # fmt: skip
def test_what_does_not_go_with_it(values: dict[str, Any]) -> None:
    build_config({"training_adapter": "a.safetensors"})
    with pytest.raises(ConfigError, match="training_adapter"):
        build_config({"training_adapter": "a.safetensors"} | values)


def test_what_is_said_of_distillation(turbo: ModelFamily, tmp_path: Path) -> None:
    (note,) = distillation_notes(None, turbo)
    assert "Train on Z-Image" in note and "training_adapter: FILE" in note
    adapter = read_training_adapter(write_adapter(tmp_path / "adapter.safetensors", turbo), turbo)
    assert not distillation_notes(adapter, turbo)
    base = opened(write_z_image(tmp_path / "base"))
    (note,) = distillation_notes(adapter, base)
    assert "this base model is not distilled" in note and not distillation_notes(None, base)
