"""Tests that other tools' files for Z-Image have the same effect as equal changes of the weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.errors import ArtifactError
from artifact.names.z_image_blocks import AROUND
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from tests.artifact.names.test_qwen_names import in_diffusers
from tests.artifact.test_merging import near
from tests.families.test_family_files import predict
from tests.families.z_image.z_image_file import z_image_file_tensors
from tests.fast_part import slow_but
from tests.tiny_models import opened, write_z_image
from trainer.adapters.targets import layer_paths

RANK, ALPHA = 4, 2.0
TOOLS = {  # prefix of the path, whether `_` replaces every dot, whether names are the makers' instead of diffusers'
    "musubi-tuner": ("lora_unet_", True, False),
    "OneTrainer": ("lora_transformer_", True, False),
    "ai-toolkit": ("diffusion_model.", False, False),
    "diffusers": ("transformer.", False, False),
    "DiffSynth": ("", False, False),
    "ComfyUI": ("diffusion_model.", False, True),
    "kohya, as the makers": ("lora_unet_", True, True),
}
IN_BLOCKS = (".attention.", ".feed_forward.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_z_image(tmp_path_factory.mktemp("z") / "folder")


def foreign_file(family: ModelFamily, tool: str, path: Path, parts: tuple[str, ...] = IN_BLOCKS) -> ModelFamily:
    """Write a random LoRA on the layers whose names contain one of `parts`. Returns the base with the same changes in
    its weights."""
    prefix, underscored, makers = TOOLS[tool]
    weights = z_image_file_tensors(family.denoiser) if makers else dict(family.denoiser.state_dict())
    own = {name: weights[name] for name in weights if weights[name].ndim == 2 and any(part in name for part in parts)}
    generator, tensors, changes = torch.Generator().manual_seed(0), dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in own.items():
        layer = name.removesuffix(".weight")
        down = 0.3 * torch.randn(RANK, weight.shape[1], generator=generator)
        up = 0.3 * torch.randn(weight.shape[0], RANK, generator=generator)
        written = prefix + (layer.replace(".", "_") if underscored else layer)
        if underscored:
            tensors |= {f"{written}.lora_down.weight": down, f"{written}.lora_up.weight": up}
            tensors[f"{written}.alpha"] = torch.tensor(ALPHA)
        else:
            tensors |= {f"{written}.lora_A.weight": down, f"{written}.lora_B.weight": up}
        changes[layer] = (ALPHA / RANK if underscored else 1) * up @ down
    save_file(tensors, path)
    for layer, change in changes.items():
        for place, part in _places(layer, change):
            family.denoiser.get_submodule(place).weight.data += part
    return family


def _places(layer: str, change: Tensor) -> list[tuple[str, Tensor]]:
    if layer.endswith(".qkv"):
        return [(layer.replace(".qkv", f".to_{part}"), rows) for part, rows in zip("qkv", change.chunk(3), strict=True)]
    return [(layer.replace(".attention.out", ".attention.to_out.0"), change)]


@pytest.mark.parametrize("tool", slow_but(["kohya, as the makers"], TOOLS))
def test_files_of_other_tools(tool: str, folder: Path, tmp_path: Path) -> None:
    family, path = opened(folder), tmp_path / "foreign.safetensors"
    changed, bare = foreign_file(opened(folder), tool, path), predict(family)
    wanted = predict(changed)
    placed = PlacedArtifacts(family, [Artifact.read(path)])
    assert near(predict(family), wanted, bare)
    placed.remove()
    assert LoraFile.read(path).family == "z-image"
    convert(path, tmp_path / "ours.safetensors", "diffusers")
    assert in_diffusers(family, tmp_path / "ours.safetensors", wanted, bare)


def test_layers_outside_of_the_blocks(folder: Path, tmp_path: Path) -> None:
    """lora_target_regex can select any layer."""
    family = opened(folder)
    outside = {path for path in layer_paths(family.denoiser) if not path.startswith(("layers", "noise", "context"))}
    assert outside == set(AROUND.values())
    for number, name in enumerate(AROUND):
        save_file(
            {f"lora_unet_{each}.lora_{part}.weight": torch.ones(2, 2)
             for each in ("layers_0_attention_to_q", name.replace(".", "_")) for part in ("down", "up")},
            tmp_path / f"{number}.safetensors",
        )  # fmt: skip
        assert f"transformer.{AROUND[name]}" in Artifact.read(tmp_path / f"{number}.safetensors").layers


def test_a_joined_layer_that_cannot_be_parted(tmp_path: Path) -> None:
    name = "diffusion_model.layers.0.attention.qkv"
    for tensors, said in (
        ({f"{name}.diff": torch.ones(6, 2)}, "only plain LoRA is supported"),
        ({f"{name}.lora_A.weight": torch.ones(1, 2), f"{name}.lora_B.weight": torch.ones(7, 1)}, "7 outputs"),
    ):
        path = tmp_path / f"{said[:1]}.safetensors"
        save_file(tensors, path)
        with pytest.raises(ArtifactError, match=said):
            Artifact.read(path)
