"""Masked means over latent pixels."""

import torch
from torch import Tensor


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each sample's error (B, C, h, w) under its mask (B, 1, h, w): Σ m·e / (C · Σ m), (B,).

    Normalised for each sample, so that a small subject counts as much as a large one. None: the plain mean. A mask of
    zeros: 0, for there is nothing to learn.
    """
    if mask is None:
        return error.mean(dim=(1, 2, 3))
    marked = mask.sum(dim=(1, 2, 3)).clamp(min=torch.finfo(mask.dtype).tiny)
    return (error * mask).sum(dim=(1, 2, 3)) / (error.shape[1] * marked)
