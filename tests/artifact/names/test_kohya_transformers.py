"""Tests of conversion to the names of kohya's sd-scripts, musubi-tuner and ai-toolkit, and back, without losses.

The expected names are derived from the makers' checkpoints, as written by the tests' writers of single files: the layer
lora_unet_X of a kohya file, with `_` for every dot, changes the tensor X.weight.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.errors import ArtifactError
from families.family import ModelFamily
from tests.families.loading.flux_files import flux_file_tensors
from tests.tiny_models import TINY_MODELS, opened
from trainer.adapters.targets import layer_paths

RANK = 2
MAKERS: Mapping[str, Callable[[ModelFamily], dict[str, Tensor]]] = {
    "flux1": lambda family: flux_file_tensors(family.denoiser),
    "flux2": lambda family: flux_file_tensors(family.denoiser),
    "qwen_image": lambda family: family.denoiser.state_dict(),
    "z-image": lambda family: family.denoiser.state_dict(),  # musubi-tuner has diffusers' names
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFamily]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: opened(TINY_MODELS[kind](folder / kind)) for kind in MAKERS}


def our_file(family: ModelFamily, path: Path, *, without: str = " ") -> dict[str, Tensor]:
    """Write a random LoRA on all layers except those whose names contain `without`. Returns the changes by path."""
    generator, tensors, changes = torch.Generator().manual_seed(0), dict[str, Tensor](), dict[str, Tensor]()
    for layer in (layer for layer in layer_paths(family.denoiser) if without not in layer):
        out, inputs = family.denoiser.get_submodule(layer).weight.shape
        down, up = torch.randn(RANK, inputs, generator=generator), torch.randn(out, RANK, generator=generator)
        tensors |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
        changes[layer] = up @ down
    save_file(tensors, path, {"modelspec.architecture": f"{family.architecture}/lora"})
    return changes


def changes_of(path: Path) -> dict[str, Tensor]:
    """Return the changes in one of our files by path."""
    return {name.removeprefix("transformer."): layer.delta(_shape(layer)) for name, layer in
            Artifact.read(path).layers.items()}  # fmt: skip


def _shape(layer: object) -> Tensor:
    return torch.empty(layer.up.shape[0], layer.down.shape[1])  # type: ignore[attr-defined]


def changed(family: ModelFamily, kind: str, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the differences of the makers' tensors that these changes of the base's weights cause, by kohya's name."""
    before = {name: tensor.clone() for name, tensor in MAKERS[kind](family).items()}
    state = {name: tensor.clone() for name, tensor in family.denoiser.state_dict().items()}
    try:
        for layer, change in changes.items():
            family.denoiser.get_submodule(layer).weight.data += change
        after = {name: tensor.clone() for name, tensor in MAKERS[kind](family).items()}
    finally:
        family.denoiser.load_state_dict(state)
    return {name.removesuffix(".weight").replace(".", "_"): after[name] - before[name] for name in after
            if not torch.equal(after[name], before[name])}  # fmt: skip


@pytest.mark.parametrize("without", [" ", "to_k", "proj_mlp"])
@pytest.mark.parametrize("kind", MAKERS)
def test_each_tensor_of_the_makers_is_changed_by_the_layer_of_its_name(
    kind: str, without: str, families: dict[str, ModelFamily], tmp_path: Path
) -> None:
    family, ours, theirs = families[kind], tmp_path / "ours.safetensors", tmp_path / "kohya.safetensors"
    changes = our_file(family, ours, without=without)
    convert(ours, theirs, "kohya")
    tensors = load_file(theirs)
    wanted = changed(family, kind, changes)
    names = {key.split(".")[0].removeprefix("lora_unet_") for key in tensors}
    assert names == wanted.keys() and all("." not in name for name in names)
    for name, change in wanted.items():
        down, up, alpha = (
            tensors[f"lora_unet_{name}.{key}"] for key in ("lora_down.weight", "lora_up.weight", "alpha")
        )
        torch.testing.assert_close(alpha / down.shape[0] * up @ down, change, rtol=1e-4, atol=1e-4)
    convert(theirs, tmp_path / "back.safetensors", "diffusers")
    again = changes_of(tmp_path / "back.safetensors")
    for layer, change in changes.items():
        torch.testing.assert_close(again[layer], change, rtol=1e-4, atol=1e-5)
    assert not any(again[layer].any() for layer in again.keys() - changes.keys())
    assert LoraFile.read(theirs).family == kind


@pytest.mark.parametrize("kind", MAKERS)
def test_ai_toolkit_s_names_there_and_back(kind: str, families: dict[str, ModelFamily], tmp_path: Path) -> None:
    """Names are `diffusion_model.` and the makers' dotted name; for FLUX.1, diffusers' names. No change is lost."""
    family, ours, theirs = families[kind], tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    changes = our_file(family, ours)
    convert(ours, theirs, "ai-toolkit")
    keys = load_file(theirs).keys()
    names = {key.removesuffix(".weight").rpartition(".")[0] for key in keys}
    if kind == "flux1":
        assert keys == load_file(ours).keys()
    else:
        makers = {name.removesuffix(".weight") for name, each in MAKERS[kind](family).items() if each.ndim == 2}
        assert names <= {f"diffusion_model.{name}" for name in makers}
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys)
    convert(theirs, tmp_path / "back.safetensors", "diffusers")
    again = changes_of(tmp_path / "back.safetensors")
    assert again.keys() == changes.keys()
    for layer, change in changes.items():
        torch.testing.assert_close(again[layer], change, rtol=1e-4, atol=1e-5)


def test_ai_toolkit_s_names_are_refused_for_unets(tmp_path: Path) -> None:
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{path}.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}, tmp_path / "unet.safetensors")
    with pytest.raises(ArtifactError, match="^--format ai-toolkit supports flux1, .* Use --format diffusers"):
        convert(tmp_path / "unet.safetensors", tmp_path / "out.safetensors", "ai-toolkit")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_of_kohya_s_is_the_same_there_and_back(families: dict[str, ModelFamily], tmp_path: Path) -> None:
    """Its joined layers have one `down` for all parts, and keep their rank."""
    generator, tensors = torch.Generator().manual_seed(0), dict[str, Tensor]()
    for name, weight in flux_file_tensors(families["flux1"].denoiser).items():
        if weight.ndim != 2 or "blocks" not in name:
            continue
        own = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        tensors[f"{own}.lora_down.weight"] = torch.randn(RANK, weight.shape[1], generator=generator)
        tensors[f"{own}.lora_up.weight"] = torch.randn(weight.shape[0], RANK, generator=generator)
        tensors[f"{own}.alpha"] = torch.tensor(float(RANK))
    save_file(tensors, tmp_path / "one.safetensors")
    convert(tmp_path / "one.safetensors", tmp_path / "two.safetensors", "diffusers")
    convert(tmp_path / "two.safetensors", tmp_path / "three.safetensors", "kohya")
    again = load_file(tmp_path / "three.safetensors")
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_diffusers_own_converter_reads_them(families: dict[str, ModelFamily], tmp_path: Path) -> None:
    """For FLUX.1's single blocks it only supports the published width, 3072."""
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "kohya.safetensors"
    changes = our_file(families["flux1"], ours, without="single_")
    convert(ours, theirs, "kohya")
    read = _convert_kohya_flux_lora_to_diffusers(load_file(theirs))
    attention = [layer for layer in changes if layer.startswith("transformer_blocks") and ".attn." in layer]
    assert len(attention) == 8 * len(families["flux1"].denoiser.transformer_blocks)
    for layer in attention:
        down, up = (read[f"transformer.{layer}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(up @ down, changes[layer], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    block = "transformer.single_transformer_blocks.0"
    factors = {f"{block}.attn.to_q.hada_w{number}_{part}": torch.ones(8, 8) for number in (1, 2) for part in "ab"}
    save_file(factors, tmp_path / "loha.safetensors")
    with pytest.raises(ArtifactError, match=r"to_q is a loha layer, which cannot be joined.*resize"):
        convert(tmp_path / "loha.safetensors", tmp_path / "out.safetensors", "kohya")
    strange = {f"{block}.new_layer.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    save_file(strange, tmp_path / "strange.safetensors")
    with pytest.raises(ArtifactError, match="new_layer: has no name in FLUX's original code"):
        convert(tmp_path / "strange.safetensors", tmp_path / "out.safetensors", "kohya")
    assert not (tmp_path / "out.safetensors").exists()
