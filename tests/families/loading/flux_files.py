"""Writes a tiny FLUX transformer as a single file with the tensor names of the original code, as used in ComfyUI.

This is the reverse of `families.loading.flux_names`, and of diffusers' converter for FLUX.2, with independent tables.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
IN_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_q": "img_attn.qkv",
    "attn.add_q_proj": "txt_attn.qkv",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
IN_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.to_q": "linear1",
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
TOGETHER = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}


def flux_file_tensors(transformer: Any) -> dict[str, Tensor]:
    """Return the transformer's tensors by their original names."""
    state, tensors = transformer.state_dict(), {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None:
            path, _, kind = name.rpartition(".")
            turned = torch.cat(tensor.chunk(2)[::-1]) if path == "norm_out.linear" else tensor
            tensors[f"{OUTSIDE[path]}.{kind}"] = turned
            continue
        single, number, layer, kind = match.groups()
        new = (IN_SINGLE if single else IN_DOUBLE).get(layer)
        if new is None:
            continue  # part of a joined tensor
        parts = (layer,) if layer == "attn.to_qkv_mlp_proj" else TOGETHER.get(new, (layer,))
        prefix = name.removesuffix(f"{layer}.{kind}")
        joined = torch.cat([state[f"{prefix}{part}.{kind}"] for part in parts])
        ending = "scale" if "_norm" in new else kind
        tensors[f"{'single' if single else 'double'}_blocks.{number}.{new}.{ending}"] = joined
    return tensors


def write_flux_file(transformer: Any, path: Path, prefix: str = "model.diffusion_model.") -> Path:
    """Write the file and return its path. `prefix`: ComfyUI's, or empty as in the files that the makers publish."""
    tensors = {
        prefix + name: each.detach().clone().contiguous() for name, each in flux_file_tensors(transformer).items()
    }
    save_file(tensors, path)
    return path
