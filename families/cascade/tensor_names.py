"""Tensors of Stages C and B by diffusers' names, from those of the original code and ComfyUI: only attention differs
there, whose queries, keys and values are one tensor."""

import re
from collections.abc import Mapping

from torch import Tensor

JOINED = re.compile(r"(?P<block>.+\.attention)\.attn\.in_proj_(?P<kind>weight|bias)")
OUTPUT = ".attention.attn.out_proj."


def stage_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename them, and split queries, keys and values (3 · C rows) into three tensors."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (match := JOINED.fullmatch(name)) is None:
            found[name.replace(OUTPUT, ".attention.to_out.0.")] = tensor
            continue
        for part, rows in zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True):
            found[f"{match['block']}.{part}.{match['kind']}"] = rows.clone()
    return found
