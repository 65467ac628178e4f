"""Tests of Stage C's LoRA files: ComfyUI's names, files of other tools, merging, and application by hand."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableCascadeUNet
from safetensors.torch import load_file, save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.layers import LoraLayer
from artifact.merging.merge import merge
from artifact.merging.onto import merge_onto
from artifact.names.components import Place, module_places
from families.family import ModelFamily
from sampler.sampler import Sampler
from tests.families.test_family_files import predict, random_lora
from tests.tiny_cascade import write_cascade
from tests.tiny_models import opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("cascade") / "base")


@pytest.fixture(scope="module")
def family(folder: Path) -> ModelFamily:
    return opened(folder)


@pytest.fixture(scope="module")
def lora(family: ModelFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA file with every layer that the family adapts."""
    path = tmp_path_factory.mktemp("lora") / "weights.safetensors"
    random_lora(family).write(
        path, "fp32", architecture=family.architecture, base_model_version=family.base_model_version
    )
    return path


def predicted(family: ModelFamily, path: Path) -> Tensor:
    sampler = Sampler(family)
    sampler.load(Artifact.read(path))
    prediction = predict(family)
    sampler.unload()
    return prediction


@torch.no_grad()
def by_hand(lora: Path, folder: Path, family: ModelFamily) -> Tensor:
    """Predict with diffusers' network and the weights W + alpha / rank · up · down, by the names that ComfyUI reads."""
    network = StableCascadeUNet.from_pretrained(folder, subfolder="prior")
    weights = network.state_dict()
    tensors = load_file(lora)
    for path in (name.removesuffix(".weight") for name in list(weights) if name.endswith(".weight")):
        native = path.replace(".attention.to_out.0", ".attention.attn.out_proj")
        native = native.replace(".attention.to_", ".attention.attn.to_").replace(".", "_")
        name = f"lora_prior_unet_{native}"
        if (down := tensors.pop(f"{name}.lora_down.weight", None)) is None:
            continue
        up, alpha = tensors.pop(f"{name}.lora_up.weight"), tensors.pop(f"{name}.alpha")
        change = alpha / len(down) * up.flatten(1) @ down.flatten(1)
        weights[f"{path}.weight"] += change.reshape(weights[f"{path}.weight"].shape)
    assert not tensors
    whole = family.denoiser
    family.denoiser = network
    try:
        return predict(family)
    finally:
        family.denoiser = whole


def test_four_ways_to_apply_a_file_are_one(family: ModelFamily, folder: Path, lora: Path, tmp_path: Path) -> None:
    """The file is loaded beside the base, merged into its folder, converted to diffusers' names, or applied by hand."""
    bare, beside = predict(family), predicted(family, lora)
    assert torch.equal(predict(family), bare) and (beside - bare).norm() > 0.05 * bare.norm()
    merge_onto([lora], [1.0], str(folder), tmp_path / "merged")
    for part in ("decoder", "vqgan", "effnet_encoder"):
        assert (tmp_path / "merged" / part).is_dir()
    convert(lora, tmp_path / "dotted.safetensors", "diffusers")
    assert all(name.startswith("prior.") for name in load_file(tmp_path / "dotted.safetensors"))
    for other in (
        predict(opened(tmp_path / "merged")),
        predicted(family, tmp_path / "dotted.safetensors"),
        by_hand(lora, folder, family),
    ):
        torch.testing.assert_close(other, beside, rtol=1e-3, atol=1e-3)


def test_a_file_says_what_it_is(lora: Path) -> None:
    file = LoraFile.read(lora)
    assert (file.family, file.header["modelspec.architecture"]) == ("cascade", "stable-cascade-v1-prior/lora")
    assert file.header["ss_base_model_version"] == "stable_cascade_c"


def test_files_of_other_tools_are_read(family: ModelFamily, lora: Path, tmp_path: Path) -> None:
    """One file has ComfyUI's other prefix, the other OneTrainer's dotted paths with kohya's keys."""
    ours, tensors = predicted(family, lora), load_file(lora)
    paths = {name: place.path for name, place in module_places(family).items() if place.component == "denoiser"}
    for number, rename in enumerate((
        lambda name: name.replace("lora_prior_unet_", "lora_unet_"),
        lambda name: f"prior.{paths[name]}",
    )):  # fmt: skip
        foreign = tmp_path / f"{number}.safetensors"
        renamed = {f"{rename(name.partition('.')[0])}.{name.partition('.')[2]}": each for name, each in tensors.items()}
        save_file(renamed, foreign)
        assert LoraFile.read(foreign).family == "cascade"
        assert torch.equal(predicted(family, foreign), ours)


def test_two_files_are_merged(family: ModelFamily, lora: Path, tmp_path: Path) -> None:
    second = Path(shutil.copy(lora, tmp_path / "second.safetensors"))
    merge([lora, second], [0.5, 0.5], tmp_path / "both.safetensors")
    assert all(name.startswith("lora_prior_unet_") for name in load_file(tmp_path / "both.safetensors"))
    torch.testing.assert_close(predicted(family, tmp_path / "both.safetensors"), predicted(family, lora))


def test_layers_of_the_text_encoder_have_the_priors_prefix(family: ModelFamily, tmp_path: Path) -> None:
    path = "encoder.layers.0.self_attn.q_proj"
    for prefix in ("lora_prior_te_", "lora_te_", "lora_te1_"):
        place = module_places(family)[f"{prefix}text_model_{path.replace('.', '_')}"]
        assert place == Place("text_encoder", f"text_model.{path}")
    name = f"lora_prior_te_text_model_{path.replace('.', '_')}"
    layer = LoraLayer(torch.randn(2, 32), torch.randn(32, 2), 2.0)
    save_file({f"{name}.{key}": each for key, each in layer.tensors().items()}, tmp_path / "text.safetensors")
    assert not torch.equal(predicted(family, tmp_path / "text.safetensors"), predict(family))


def test_embeddings_are_named_as_comfyui_reads_them(tmp_path: Path) -> None:
    rows = torch.randn(2, 32)
    save_file({"clip_g": rows}, tmp_path / "word.safetensors")
    assert torch.equal(Artifact.read(tmp_path / "word.safetensors").tokens["clip_g"], rows)
    convert(tmp_path / "word.safetensors", tmp_path / "again.safetensors", "embeddings")
    assert torch.equal(load_file(tmp_path / "again.safetensors")["clip_g"], rows)
