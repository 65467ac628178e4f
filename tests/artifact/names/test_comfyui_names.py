"""Tests that ComfyUI can place every layer that a training of FLUX with the usual targets writes, at full size."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

from artifact.names.kohya import file_names
from families.family import ModelFamily
from families.flux1 import Flux1
from families.flux2 import Flux2
from settings.sections.adapter import AdapterSection, LoraTargets
from tests.artifact.names.comfyui_flux import Target, comfyui_flux
from tests.families.loading.flux_files import flux_file_tensors
from trainer.adapters.targets import denoiser_targets, layer_paths


def full_size(family: Any, model: Any) -> ModelFamily:
    """Return a denoiser of the published size without weights, with the family's facts about its layers."""
    facts = {fact: getattr(family, fact) for fact in ("name", "adapter_modules", "layer_naming", "denoiser_kind")}
    with torch.device("meta"):
        return cast(ModelFamily, SimpleNamespace(**facts, denoiser=model(), idle_modules=()))


def written(family: ModelFamily, targets: LoraTargets) -> dict[str, tuple[int, int]]:
    """Return the names in a file, with rows and columns of each layer."""
    names = file_names(family)
    paths = denoiser_targets(family, AdapterSection(lora_targets=targets))
    return {names[path]: tuple(family.denoiser.get_submodule(path).weight.shape) for path in paths}


@pytest.mark.parametrize("dev", [True, False])
def test_every_layer_of_flux1_has_its_place_in_comfyui(dev: bool) -> None:
    family = full_size(Flux1, lambda: FluxTransformer2DModel(guidance_embeds=dev))
    width = 24 * 128
    table = comfyui_flux(19, 38, width)
    tensors = {name.rpartition(".")[0]: tuple(each.shape) for name, each in flux_file_tensors(family.denoiser).items()
               if name.endswith("weight")}  # fmt: skip
    for targets, count in (("attention", 19 * 8 + 38 * 3), ("attention+feed-forward", 19 * 12 + 38 * 5)):
        layers = written(family, cast(LoraTargets, targets))
        assert len(layers) == count
        for name, (rows, columns) in layers.items():
            tensor, part = table[name]
            height, depth = tensors[tensor]
            assert columns == depth and rows == (height if part is None else part[1]), name
            assert part is None or part[0] + part[1] <= height
    every = {file_names(family)[path] for path in layer_paths(family.denoiser)}
    assert every <= table.keys()  # lora_target_regex can select any layer
    assert {"final_layer.linear", "img_in"} <= {target.tensor for target in table.values()}


FLUX2: dict[str, dict[str, Any]] = {
    "klein-4b": {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
    "klein-9b": {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
    "dev": {"guidance_embeds": True},
}
NOT_IN_COMFYUI = ("_stream_modulation", "time_guidance_embed")
"""FLUX.2's layers outside of its blocks, for which ComfyUI does not know diffusers' names (docs/artifact.md)."""


@pytest.mark.parametrize("size", FLUX2)
def test_every_layer_of_flux2_has_its_place_in_comfyui(size: str) -> None:
    family = full_size(Flux2, lambda: Flux2Transformer2DModel(**{"guidance_embeds": False, **FLUX2[size]}))
    config = family.denoiser.config
    width = config.num_attention_heads * config.attention_head_dim
    table = comfyui_flux(config.num_layers, config.num_single_layers, width)
    tensors = {name.rpartition(".")[0]: tuple(each.shape) for name, each in flux_file_tensors(family.denoiser).items()
               if name.endswith("weight")}  # fmt: skip
    double, single = config.num_layers, config.num_single_layers
    expected = {"attention": 8 * double + 2 * single, "attention+feed-forward": 12 * double + 2 * single}
    for targets, count in expected.items():
        layers = written(family, cast(LoraTargets, targets))
        assert len(layers) == count
        for name, (rows, columns) in layers.items():
            tensor, part = table[name]
            height, depth = tensors[tensor]
            assert columns == depth and rows == (height if part is None else part[1]), name
    left_out = {file_names(family)[path] for path in layer_paths(family.denoiser)} - table.keys()
    assert left_out and all(any(mark in name for mark in NOT_IN_COMFYUI) for name in left_out)


def test_parts_of_a_joined_tensor_lie_side_by_side() -> None:
    table = comfyui_flux(1, 1, 8)
    assert table["transformer.transformer_blocks.0.attn.add_v_proj"] == Target("double_blocks.0.txt_attn.qkv", (16, 8))
    assert table["transformer.single_transformer_blocks.0.proj_mlp"] == Target("single_blocks.0.linear1", (24, 32))
