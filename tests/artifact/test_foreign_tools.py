"""Tests that files of other trainers (foreign_tools.py) have their intended effect in our code and in diffusers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artifact.artifact import Artifact
from artifact.conversion.convert import convert
from artifact.conversion.files import LoraFile
from artifact.errors import ArtifactError
from artifact.layers import LoraLayer
from artifact.placement.placing import PlacedArtifacts
from families.family import ModelFamily
from families.registry import load_base_model
from tests.artifact.foreign_tools import TOOLS, apply, diffusers_script
from tests.artifact.test_merging import near
from tests.families.test_family_files import predict
from tests.tiny_models import TINY_MODELS

FAST = [("kohya", "sdxl"), ("kohya", "sd3")]
CASES = [("kohya", "sd15"), ("kohya", "sdxl"), ("kohya", "sd3"), ("ai-toolkit", "sd15"), ("ai-toolkit", "sdxl"),
         ("OneTrainer", "sd15"), ("OneTrainer", "sdxl"), ("OneTrainer", "sd3")]  # fmt: skip
NOT_IN_DIFFUSERS = {
    ("kohya", "sd3"): "the names of Stability's MMDiT are not known",
    ("ai-toolkit", "sd15"): "an embedding in the file makes it pass over the rest",
    ("ai-toolkit", "sdxl"): "an embedding in the file makes it pass over the rest",
    ("OneTrainer", "sdxl"): "add_embedding is read as add.embedding and left out, with a warning",
    ("OneTrainer", "sd3"): "lora_transformer_ is not known",
}
"""Files that diffusers 0.42 cannot load, or not completely. It loads our conversion of them."""


def effect(family: ModelFamily, path: Path) -> torch.Tensor:
    placed = PlacedArtifacts(family, [Artifact.read(path)])
    try:
        return predict(family)
    finally:
        placed.remove()


@pytest.mark.parametrize(
    ("tool", "kind"), [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_whole_file_means_here_what_it_means_there(tool: str, kind: str, tmp_path: Path) -> None:
    """diffusers loads our conversion of every file, and the file itself if docs/artifact.md says so."""
    folder = str(TINY_MODELS[kind](tmp_path / "base"))
    family, changed = load_base_model(folder, torch.float32), load_base_model(folder, torch.float32)
    file = TOOLS[tool](family)
    path = file.write(tmp_path / "my word.safetensors")
    apply(file.changes, changed)
    bare, wanted = predict(family), predict(changed)
    assert near(effect(family, path), wanted, bare)
    read = LoraFile.read(path)
    assert read.family == kind and len(read.artifact.layers) == len(file.changes)
    assert dict(read.artifact.triggers) == ({"my word": ["<s0>"]} if tool == "ai-toolkit" else {})
    convert(path, tmp_path / "ours.safetensors", "diffusers")
    assert in_diffusers(family, tmp_path / "ours.safetensors", wanted, bare)
    assert in_diffusers(family, path, wanted, bare) == ((tool, kind) not in NOT_IN_DIFFUSERS)


def in_diffusers(family: ModelFamily, path: Path, wanted: torch.Tensor, bare: torch.Tensor) -> bool:
    """Return whether diffusers loads the whole file, including text encoders."""
    pipeline = family.pipeline()
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
        return near(predict(family), wanted, bare)
    except (ValueError, KeyError, RuntimeError):
        return False
    finally:
        pipeline.unload_lora_weights()


@pytest.mark.parametrize("kind", ["sd15", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sdxl", "sd3"))])
def test_a_file_of_diffusers_scripts_has_its_alphas_in_the_header(kind: str, tmp_path: Path) -> None:
    folder = str(TINY_MODELS[kind](tmp_path / "base"))
    family, theirs = load_base_model(folder, torch.float32), load_base_model(folder, torch.float32)
    bare = predict(family)
    path = diffusers_script(theirs, tmp_path)
    wanted = predict(theirs)
    assert in_diffusers(family, path, wanted, bare)
    assert near(effect(family, path), wanted, bare)
    layers = Artifact.read(path).layers.values()
    assert {layer.scale for layer in layers if isinstance(layer, LoraLayer)} == {3.0}
    folded = tmp_path / "folded.safetensors"
    convert(path, folded, "diffusers")  # the header's alphas must not be applied again
    assert in_diffusers(family, folded, wanted, bare) and near(effect(family, folded), wanted, bare)


def header(**values: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in values.items()})}


NAME = "unet.mid_block.attentions.0.proj_in"


def test_alphas_of_single_layers_and_rank_stabilised_ones(tmp_path: Path) -> None:
    tensors = {f"{NAME}.lora_A.weight": torch.ones(4, 6), f"{NAME}.lora_B.weight": torch.ones(6, 4)}
    for values, scale in (
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attentions.0.proj_in": 2, "proj_in": 4}}, 0.5),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^mid_block.attentions.0.proj_in": 4}}, 1.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"roj_in": 4, "^proj_in": 4}}, 2.0),
        ({"r": 4}, 1.0),
    ):
        save_file(tensors, tmp_path / "a.safetensors", header(**values))
        (layer,) = Artifact.read(tmp_path / "a.safetensors").layers.values()
        assert isinstance(layer, LoraLayer) and layer.scale == scale


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[" * 100_000, '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": [1]}', '{"unet.lora_alpha": NaN}',
     '{"unet.lora_alpha": 1, "unet.alpha_pattern": 3}', '{"unet.lora_alpha": 1, "unet.alpha_pattern": {"(a+)+$": 1}}',
     '{"unet.lora_alpha": 1' + "0" * 400 + "}"],
)  # fmt: skip
def test_a_damaged_header_of_diffusers(text: str, tmp_path: Path) -> None:
    tensors = {f"{NAME}.lora_A.weight": torch.ones(4, 6), f"{NAME}.lora_B.weight": torch.ones(6, 4)}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    with pytest.raises(ArtifactError, match="lora_adapter_metadata|alpha|regular expression"):
        Artifact.read(tmp_path / "a.safetensors")


def test_joined_layers_that_cannot_be_parted(tmp_path: Path) -> None:
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    save_file({f"{name}.hada_w{part}": torch.ones(6, 6) for part in ("1_a", "1_b", "2_a", "2_b")}, tmp_path / "a")
    with pytest.raises(ArtifactError, match="is a loha layer; only plain LoRA is supported for SD3's joined layers"):
        Artifact.read(tmp_path / "a")
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, 6), f"{name}.lora_up.weight": torch.ones(7, 2)}, tmp_path / "b"
    )
    with pytest.raises(ArtifactError, match="which cannot be split into queries, keys and values"):
        Artifact.read(tmp_path / "b")
