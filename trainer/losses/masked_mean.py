"""Masked means over latent pixels."""

import torch
from torch import Tensor


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each sample's error (B, C, h, w) under its mask (B, 1, h, w): Σ m·e / (C · Σ m), (B,).

    Each sample is normalised by its own mask, so that small and large subjects have equal weight. `mask` None: the
    plain mean. The mean under a mask of zeros is 0.
    """
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    marked = mask.sum(dim=(1, 2, 3)).clamp(min=torch.finfo(mask.dtype).tiny)
    return (error * mask).sum(dim=(1, 2, 3)) / (error.shape[1] * marked)
