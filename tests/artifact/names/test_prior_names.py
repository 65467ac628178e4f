"""Tests of the names of a full-size prior's layers against ComfyUI's table, and of parsing names without a base."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from diffusers import StableCascadeUNet

from artifact.conversion.module_names import parse, written
from artifact.names.kohya import file_names, module_paths
from families.cascade.family import Cascade
from families.family import ModelFamily
from families.lora_files import family_of_encoders, family_of_header, family_of_modules
from settings.sections.adapter import AdapterSection, LoraTargets
from tests.artifact.names.test_comfyui_names import full_size
from trainer.adapters.targets import denoiser_targets, layer_paths

SIZES: dict[str, tuple[int, tuple[int, int]]] = {"3.6B": (2048, (8, 24)), "1B": (1536, (4, 12))}


def stage_c(size: str) -> ModelFamily:
    width, layers = SIZES[size]
    config: dict[str, Any] = {
        "conditioning_dim": width, "block_out_channels": (width, width), "num_attention_heads": (width // 64,) * 2,
        "down_num_layers_per_block": layers, "up_num_layers_per_block": layers[::-1], "switch_level": (False,),
        "clip_image_in_channels": 768, "clip_text_in_channels": 1280,
    }  # fmt: skip
    return full_size(Cascade, lambda: StableCascadeUNet(**config))


def comfyui_prior(layers: tuple[int, int]) -> Iterator[str]:
    """Yield the layers of ComfyUI's Stage C, in the order in which it builds them: residual block, time, attention."""
    yield from ("clip_txt_mapper", "clip_txt_pooled_mapper", "clip_img_mapper", "embedding.1", "clf.1")
    yield from ("down_downscalers.1.1.blocks.0", "up_upscalers.0.1.blocks.1")
    for way, counts in (("down", layers), ("up", layers[::-1])):
        for level, count in enumerate(counts):
            for number in range(count):
                first, second, third = (f"{way}_blocks.{level}.{3 * number + index}" for index in range(3))
                yield from (f"{first}.{layer}" for layer in ("depthwise", "channelwise.0", "channelwise.4"))
                yield from (f"{second}.{layer}" for layer in ("mapper", "mapper_sca", "mapper_crp"))
                yield from (f"{third}.attention.attn.{layer}" for layer in ("to_q", "to_k", "to_v", "out_proj"))
                yield f"{third}.kv_mapper.1"


@pytest.mark.parametrize("size", SIZES)
def test_every_layer_has_its_place_in_comfyui(size: str) -> None:
    family = stage_c(size)
    table = {f"lora_prior_unet_{path.replace('.', '_')}" for path in comfyui_prior(SIZES[size][1])}
    names = file_names(family)
    assert {names[path] for path in layer_paths(family.denoiser)} == table
    blocks = 2 * sum(SIZES[size][1])
    for targets, count in (
        ("attention", 4 * blocks), ("attention+feed-forward", 7 * blocks),
        ("attention+feed-forward+convolutions", 7 * blocks + 4),
    ):  # fmt: skip
        paths = denoiser_targets(family, AdapterSection(lora_targets=cast(LoraTargets, targets)))
        assert len(paths) == count
    assert names["down_blocks.0.2.attention.to_out.0"] == "lora_prior_unet_down_blocks_0_2_attention_attn_out_proj"


def test_names_of_comfyui_and_onetrainer_are_read() -> None:
    """These are ComfyUI's two prefixes, and OneTrainer's dotted paths, which are those of diffusers."""
    family = stage_c("1B")
    places = module_paths(family)
    for path in layer_paths(family.denoiser):
        ours = file_names(family)[path]
        assert places[ours] == places[ours.replace("lora_prior_unet_", "lora_unet_")] == places[f"prior.{path}"] == path


def test_names_are_parsed_without_the_base() -> None:
    family = stage_c("1B")
    for path in layer_paths(family.denoiser):
        name = file_names(family)[path]
        module = parse(name)
        assert (module.component, module.path) == ("prior", path)
        assert parse(f"prior.{path}") == module
        assert (written(module, "kohya", "cascade"), written(module, "diffusers", "cascade")) == (name, f"prior.{path}")
    comfyui = parse("lora_unet_down_blocks_1_5_attention_attn_to_k")
    assert comfyui == ("prior", "down_blocks.1.5.attention.to_k")
    encoder = "lora_prior_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert parse(encoder) == ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")
    assert written(parse(encoder), "kohya", "cascade") == encoder


@pytest.mark.parametrize(
    "names", [["lora_prior_unet_embedding_1"], ["lora_unet_up_blocks_0_0_channelwise_4"], ["prior.clf.1"]]
)
def test_the_family_is_known_by_names_alone(names: list[str]) -> None:
    assert family_of_modules(map(parse, names)) == "cascade"


def test_the_family_is_known_by_header_and_embeddings() -> None:
    assert family_of_header(["stable-cascade-v1-prior/lora", ""]) == "cascade"
    assert family_of_encoders({"clip_g"}) == "cascade"
    assert family_of_encoders({"clip_l", "clip_g"}) == "sdxl"
