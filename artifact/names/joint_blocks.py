"""Converts SD3's layer names of Stability's code, as kohya's sd-scripts writes them, to diffusers'.

There, queries, keys and values of an attention are one layer. Its LoRA becomes three, which share `down` and have a
third of `up` each. Where diffusers swaps scale and shift of a modulation, the rows of `up` are swapped, too.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from artifact.errors import ArtifactError
from artifact.layers import Layer, LoraLayer

PREFIX = "lora_unet_"
BLOCK = re.compile(r"joint_blocks_(?P<number>\d+)_(?P<layer>(?:x|context)_block_\w+)")
BLOCK_LAYERS = {
    "x_block_attn_proj": "attn.to_out.0",
    "x_block_attn2_proj": "attn2.to_out.0",
    "x_block_mlp_fc1": "ff.net.0.proj",
    "x_block_mlp_fc2": "ff.net.2",
    "x_block_adaLN_modulation_1": "norm1.linear",
    "context_block_attn_proj": "attn.to_add_out",
    "context_block_mlp_fc1": "ff_context.net.0.proj",
    "context_block_mlp_fc2": "ff_context.net.2",
    "context_block_adaLN_modulation_1": "norm1_context.linear",
}
JOINED = {
    "x_block_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block_attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
AROUND = {
    "context_embedder": "context_embedder",
    "x_embedder_proj": "pos_embed.proj",
    "t_embedder_mlp_0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder_mlp_2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder_mlp_0": "time_text_embed.text_embedder.linear_1",
    "y_embedder_mlp_2": "time_text_embed.text_embedder.linear_2",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out.linear",
}
"""diffusers' names of the layers outside of the blocks."""


def with_diffusers_names(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return SD3's layers of that naming under diffusers' names, and all others unchanged.

    Raises ArtifactError for a joined layer that is not a plain LoRA.
    """
    if not any(name.startswith(f"{PREFIX}joint_blocks_") for name in layers):
        return dict(layers)
    return {new: part for name, layer in layers.items() for new, part in _split(name, layer)}


def _split(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    rest = name.removeprefix(PREFIX)
    match = BLOCK.fullmatch(rest)
    if match is None or not name.startswith(PREFIX):
        path = AROUND.get(rest)
        yield (f"transformer.{path}" if path else name), _turned(name, layer) if path == "norm_out.linear" else layer
        return
    block, kind = f"transformer.transformer_blocks.{match['number']}", match["layer"]
    if kind in JOINED:
        lora = _plain(name, layer)
        if lora.up.shape[0] % 3:
            raise ArtifactError(
                f"{name} has {lora.up.shape[0]} outputs, which cannot be split into queries, keys and values"
            )
        for path, up in zip(JOINED[kind], lora.up.chunk(3), strict=True):
            yield f"{block}.{path}", replace(lora, up=up.contiguous())
        return
    path = BLOCK_LAYERS.get(kind)
    last = path == "norm1_context.linear" and isinstance(layer, LoraLayer) and len(layer.up) == 2 * layer.down.shape[1]
    yield (f"{block}.{path}" if path else name), _turned(name, layer) if last else layer


def _turned(name: str, layer: Layer) -> Layer:
    """Swap scale and shift to diffusers' order. Of the modulations, only the last context block's has just these
    two."""
    lora = _plain(name, layer)
    return replace(lora, up=torch.cat(lora.up.chunk(2)[::-1]))


def _plain(name: str, layer: Layer) -> LoraLayer:
    if not isinstance(layer, LoraLayer) or layer.mid is not None:
        raise ArtifactError(f"{name} is a {layer.kind} layer; only plain LoRA is supported for SD3's joined layers")
    return layer
