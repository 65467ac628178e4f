"""A short fingerprint of a base's weights, stored in artifacts."""

import hashlib

import torch
from torch import nn

from families.parts.whole_tensor import whole

VALUES_PER_TENSOR = 16
REMEMBERED = "fingerprint_of_base"
"""Attribute of a denoiser whose weights are stored in another format than they were loaded."""


def fingerprint(denoiser: nn.Module) -> str:
    """Return 16 hex digits over names, shapes and a few bf16 values of every weight.

    The values are bf16, so that a base has the same fingerprint when loaded in fp32 or bf16. For a sharded base all
    ranks must call this together.
    """
    if (before := getattr(denoiser, REMEMBERED, None)) is not None:
        return str(before)
    digest = hashlib.sha256()
    for name, parameter in denoiser.named_parameters():
        values = whole(parameter.detach()).flatten()
        stride = max(1, values.numel() // VALUES_PER_TENSOR)
        sample = values[::stride][:VALUES_PER_TENSOR].to("cpu", torch.bfloat16).contiguous().view(torch.uint8)
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(bytes(sample.tolist()))
    return digest.hexdigest()[:16]


def remember_fingerprint(denoiser: nn.Module, value: str) -> None:
    """Make `fingerprint` return `value`, even if the weights change."""
    setattr(denoiser, REMEMBERED, value)
