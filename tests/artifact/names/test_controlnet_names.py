"""Tests of ControlNets' tensor names in single files, against rules derived from the original network's layout.

ComfyUI builds the original network from a file's shapes and loads the tensors by these names. It first renames the
tensors of files with diffusers' names. The rules here are independent of our conversion.
"""

from collections.abc import Iterator, Sequence

import pytest
import torch
from diffusers import ControlNetModel

from artifact.controlnet.names import single_file_names, stability_names

SD15_TENSORS = 340
"""Number of tensors in every file of ControlNet 1.1 for SD1.5."""
RESIDUAL = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
HINT_LAYERS = 8
"""Convolutions that reduce the image to the latents' size, with an activation after each except the last."""


def _controlnet(sdxl: bool) -> ControlNetModel:
    """A ControlNet of the published size on the meta device."""
    sizes = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    with torch.device("meta"):
        return ControlNetModel(**(sizes if sdxl else {"cross_attention_dim": 768}))


def _transformer(place: str, depth: int) -> Iterator[str]:
    for name in ("norm", "proj_in", "proj_out"):
        yield from (f"{place}.{name}.{end}" for end in ("weight", "bias"))
    for number in range(depth):
        block = f"{place}.transformer_blocks.{number}"
        for attention in ("attn1", "attn2"):
            yield from (f"{block}.{attention}.{name}.weight" for name in ("to_q", "to_k", "to_v", "to_out.0"))
            yield f"{block}.{attention}.to_out.0.bias"
        for name in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"):
            yield from (f"{block}.{name}.{end}" for end in ("weight", "bias"))


def _residual(place: str, skip: bool) -> Iterator[str]:
    for name in (*RESIDUAL, *(("skip_connection",) if skip else ())):
        yield from (f"{place}.{name}.{end}" for end in ("weight", "bias"))


def _original(channels: Sequence[int], depths: Sequence[int], sizes: bool) -> Iterator[str]:
    """Yield the original names: two residual blocks per level, each with a transformer of the level's depth."""
    bare = ["time_embed.0", "time_embed.2", "input_blocks.0.0", "middle_block_out.0"]
    bare += ["label_emb.0.0", "label_emb.0.2"] if sizes else []
    bare += [f"input_hint_block.{2 * number}" for number in range(HINT_LAYERS)]
    block, width = 1, channels[0]
    for level, (own, depth) in enumerate(zip(channels, depths, strict=True)):
        for _ in range(2):
            yield from _residual(f"input_blocks.{block}.0", skip=own != width)
            if depth:
                yield from _transformer(f"input_blocks.{block}.1", depth)
            block, width = block + 1, own
        if level < len(channels) - 1:
            bare.append(f"input_blocks.{block}.0.op")
            block += 1
    bare += [f"zero_convs.{number}.0" for number in range(block)]
    yield from _residual("middle_block.0", skip=False)
    yield from _transformer("middle_block.1", max(depths))
    yield from _residual("middle_block.2", skip=False)
    yield from (f"{name}.{end}" for name in bare for end in ("weight", "bias"))


@pytest.mark.parametrize("sdxl", [False, True], ids=["sd15", "sdxl"])
def test_the_original_names_are_those_of_the_layout(sdxl: bool) -> None:
    own = list(_controlnet(sdxl).state_dict())
    expected = list(
        _original((320, 640, 1280), (0, 2, 10), True)
        if sdxl
        else _original((320, 640, 1280, 1280), (1, 1, 1, 0), False)
    )
    names = stability_names(own, layers_per_block=2)
    assert len(expected) == len(set(expected)) and (sdxl or len(expected) == SD15_TENSORS)
    assert list(names) == own and sorted(names.values()) == sorted(expected)


def test_sd15_is_written_with_original_names_and_sdxl_with_diffusers_own() -> None:
    for sdxl in (False, True):
        controlnet = _controlnet(sdxl)
        own = list(controlnet.state_dict())
        written = set(single_file_names(controlnet, own).values())
        assert ("zero_convs.0.0.weight" in written) == (not sdxl)  # ComfyUI distinguishes files by either of these
        assert ("controlnet_cond_embedding.conv_in.weight" in written) == sdxl
        assert sdxl == (written == set(own))
        assert not any(name.startswith("control_model.") for name in written)


def test_the_places_of_a_few_layers() -> None:
    """The expected names are written by hand, from the original code. A wrong number of a block would change them."""
    names = stability_names(list(_controlnet(sdxl=False).state_dict()), 2)
    for own, theirs in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.resnets.1.conv1.bias": "input_blocks.2.0.in_layers.2.bias",
        "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
        "down_blocks.2.attentions.1.proj_in.weight": "input_blocks.8.1.proj_in.weight",
        "down_blocks.3.resnets.1.time_emb_proj.weight": "input_blocks.11.0.emb_layers.1.weight",
        "controlnet_cond_embedding.blocks.0.weight": "input_hint_block.2.weight",
        "controlnet_cond_embedding.conv_out.bias": "input_hint_block.14.bias",
        "controlnet_down_blocks.11.weight": "zero_convs.11.0.weight",
        "mid_block.resnets.1.norm2.weight": "middle_block.2.out_layers.0.weight",
    }.items():
        assert names[own] == theirs
