"""Tests that files for FLUX with the makers' names have the same effect as equal changes of the makers' tensors."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file
from torch import Tensor

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.errors import ArtifactError
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.loading.flux_names import flux1_tensors
from tests.artifact.test_merging import near
from tests.families.loading.flux_files import flux_file_tensors
from tests.families.test_family_files import predict
from tests.tiny_models import TINY_MODELS, opened

RANK, ALPHA = 4, 2.0
CONVERT: dict[str, Callable[[dict[str, Tensor]], Mapping[str, Tensor]]] = {
    "flux1": flux1_tensors, "flux2": convert_flux2_transformer_checkpoint_to_diffusers,
}  # fmt: skip
EVERY = ("",)
BLOCKS = ("double_blocks", "single_blocks")
ATTENTION = ("_attn.qkv", "_attn.proj")
FEED_FORWARD = ("_mlp.0",)


def foreign_file(original: Mapping[str, Tensor], tool: str, parts: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """Write a random LoRA on the makers' layers whose names contain one of `parts`. Returns the changed tensors."""
    generator, tensors, changed = torch.Generator().manual_seed(0), dict[str, Tensor](), dict(original)
    for name, weight in original.items():
        layer = name.removesuffix(".weight")
        if weight.ndim != 2 or not any(part in layer for part in parts):
            continue
        down = 0.3 * torch.randn(RANK, weight.shape[1], generator=generator)
        up = 0.3 * torch.randn(weight.shape[0], RANK, generator=generator)
        if tool == "kohya":
            own = f"lora_unet_{layer.replace('.', '_')}"
            tensors |= {
                f"{own}.lora_down.weight": down,
                f"{own}.lora_up.weight": up,
                f"{own}.alpha": torch.tensor(ALPHA),
            }
            changed[name] = weight + ALPHA / RANK * up @ down
        else:
            own = f"diffusion_model.{layer}"
            tensors |= {f"{own}.lora_A.weight": down, f"{own}.lora_B.weight": up}
            changed[name] = weight + up @ down
    save_file(tensors, path)
    return changed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux")
    return {kind: TINY_MODELS[kind](folder / kind) for kind in CONVERT}


def effect(family: ModelFamily, path: Path) -> Tensor:
    placed = PlacedArtifacts(family, [Artifact.read(path)])
    try:
        return predict(family)
    finally:
        placed.remove()


@pytest.mark.parametrize(
    ("tool", "parts"),
    [
        pytest.param("kohya", BLOCKS, id="kohya-blocks"),
        pytest.param("ai-toolkit", BLOCKS, id="ai-toolkit-blocks", marks=pytest.mark.slow),
        pytest.param("kohya", EVERY, id="kohya-all", marks=pytest.mark.slow),
        pytest.param("kohya", ATTENTION, id="kohya-attention", marks=pytest.mark.slow),
        pytest.param("ai-toolkit", FEED_FORWARD, id="ai-toolkit-mlp", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", CONVERT)
def test_the_makers_names_are_read(
    kind: str, tool: str, parts: tuple[str, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    family, changed = opened(folders[kind]), opened(folders[kind])
    path = tmp_path / "foreign.safetensors"
    tensors = foreign_file(flux_file_tensors(family.denoiser), tool, parts, path)
    changed.denoiser.load_state_dict(CONVERT[kind](tensors))
    bare, wanted = predict(family), predict(changed)
    assert near(effect(family, path), wanted, bare)
    if parts == BLOCKS:
        assert LoraFile.read(path).family == kind
        convert(path, tmp_path / "ours.safetensors", "diffusers")
        family.pipeline().load_lora_weights(str(tmp_path), weight_name="ours.safetensors")
        assert near(predict(family), wanted, bare)


def test_joined_layers_that_cannot_be_parted(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(25, 2)},
        tmp_path / "odd.safetensors",
    )
    with pytest.raises(ArtifactError, match="has 25 outputs, which cannot be split into queries, keys and values"):
        Artifact.read(tmp_path / "odd.safetensors")
    factors = {f"{name}.hada_w{number}_{part}": torch.ones(8, 8) for number in (1, 2) for part in "ab"}
    save_file(factors, tmp_path / "loha.safetensors")
    with pytest.raises(ArtifactError, match="is a loha layer; only plain LoRA is supported for FLUX's joined layers"):
        Artifact.read(tmp_path / "loha.safetensors")
