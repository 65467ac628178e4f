"""Converts latents to rows of patches for transformers, and back."""

import torch
from torch import Tensor
from torch.nn import functional


def patches_of(latents: Tensor, side: int = 2) -> Tensor:
    """(B, C, h, w) → (B, h/side · w/side, C · side²): row by row, and within a patch channel by channel."""
    return functional.pixel_unshuffle(latents, side).flatten(2).transpose(1, 2)


def latents_of(patches: Tensor, height: int, width: int, side: int = 2) -> Tensor:
    """The reverse of `patches_of`, for latents of `height` and `width`."""
    return functional.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (height // side, width // side)), side)


def grid_places(height: int, width: int, device: torch.device) -> Tensor:
    """(height · width, 2): row and column of each patch, in fp32, in the order of `patches_of`."""
    rows, columns = (torch.arange(count, device=device, dtype=torch.float32) for count in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
