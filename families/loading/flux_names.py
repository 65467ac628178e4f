"""Renames a FLUX.1 transformer's tensors from Black Forest Labs' original code to diffusers.

There queries, keys and values are one tensor, in the single blocks with the first layer of the feed-forward part too;
and the last modulation has shift before scale.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

AROUND = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
    "linear2": "proj_out",
}
FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}
BLOCK = re.compile(r"(?P<kind>double|single)_blocks\.(?P<number>\d+)\.(?P<layer>.+)")
BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
PARTS_OF_LINEAR1 = 7
"""Relative widths of queries, keys, values, and the feed-forward part."""


def flux1_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under diffusers' names; names of diffusers and unknown names are not changed."""
    return {new: value for name, tensor in tensors.items() for new, value in _renamed(name, tensor)}


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    path, _, kind = name.rpartition(".")
    kind = "weight" if kind == "scale" else kind
    block = BLOCK.fullmatch(path)
    if block is None:
        turned = path == "final_layer.adaLN_modulation.1"
        yield f"{AROUND.get(path, path)}.{kind}", torch.cat(tensor.chunk(2)[::-1]) if turned else tensor
        return
    prefix, layer = f"{BLOCKS[block['kind']]}.{block['number']}", block["layer"]
    if layer not in FUSED:
        names = DOUBLE if block["kind"] == "double" else SINGLE
        yield f"{prefix}.{names.get(layer, layer)}.{kind}", tensor
        return
    parts = PARTS_OF_LINEAR1 if layer == "linear1" else len(FUSED[layer])
    width = tensor.shape[0] // parts
    sizes = [width, width, tensor.shape[0] - 2 * width] if parts == 3 else [width] * 3 + [tensor.shape[0] - 3 * width]
    for new, part in zip(FUSED[layer], tensor.split(sizes), strict=True):
        yield f"{prefix}.{new}.{kind}", part.contiguous()
