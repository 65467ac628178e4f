"""Writes a tiny Z-Image transformer as a single file with the tensor names of ComfyUI's files.

There queries, keys and values of an attention are one tensor. This is the reverse of diffusers' converter, with
independent rules.
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
    """Return the transformer's tensors by these names."""
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
    """Write the file and return its path. `prefix`: ComfyUI's, or empty."""
    tensors = {
        prefix + name: each.detach().clone().contiguous() for name, each in z_image_file_tensors(transformer).items()
    }
    save_file(tensors, path)
    return path
