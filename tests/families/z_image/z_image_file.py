"""Writes a tiny Z-Image transformer as one file with the names that ComfyUI's users have.

Queries, keys and values of an attention are one tensor. By rules of its own, the reverse of diffusers' converter.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

NAMES = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    ".attention.to_out.0.": ".attention.out.",
    ".attention.norm_q.": ".attention.q_norm.",
    ".attention.norm_k.": ".attention.k_norm.",
}


def z_image_file_tensors(transformer: Any) -> dict[str, Tensor]:
    """Its tensors by those names."""
    state, tensors = transformer.state_dict(), {}
    for name, tensor in state.items():
        if ".attention.to_q." in name:
            parts = [state[name.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            tensors[name.replace(".to_q.", ".qkv.")] = torch.cat(parts)
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            for theirs, ours in NAMES.items():
                name = name.replace(theirs, ours)
            tensors[name] = tensor
    return tensors


def write_z_image_file(transformer: Any, path: Path, prefix: str = "model.diffusion_model.") -> Path:
    """`prefix`: ComfyUI's, or nothing."""
    tensors = {
        prefix + name: each.detach().clone().contiguous() for name, each in z_image_file_tensors(transformer).items()
    }
    save_file(tensors, path)
    return path
