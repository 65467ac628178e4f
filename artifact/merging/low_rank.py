"""The best low-rank approximation of a weight change, and the share of energy that it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.layers import LoraLayer

NOISE = 1e-7
"""Singular values below this, relative to the largest, are rounding errors of fp64 and set to zero."""


@dataclass(frozen=True)
class Fit:
    """Approximation quality of a layer: squared norms of the change and of the approximation error."""

    name: str
    change: float
    lost: float

    @property
    def explained(self) -> float:
        """The share of the change's energy ‖ΔW‖² that is kept, 0 to 1."""
        return 1 - self.lost / self.change if self.change else 1.0


def relative_error(fits: Sequence[Fit]) -> float:
    """Return √(Σ‖ΔW - ΔW'‖² / Σ‖ΔW‖²) over all layers."""
    change = sum(fit.change for fit in fits)
    return (sum(fit.lost for fit in fits) / change) ** 0.5 if change else 0.0


def nearest_lora(name: str, change: Tensor, rank: int) -> tuple[LoraLayer, Fit]:
    """Return the LoRA of at most `rank` with the smallest error (Eckart and Young 1936), fp32 on the CPU, alpha = rank.

    `change`: (out, in) or (out, in, kh, kw). The singular vectors are computed from ΔW·ΔWᵀ or ΔWᵀ·ΔW in fp64, whichever
    is smaller. This is much faster than a decomposition of ΔW, and exact to the precision of fp32.
    """
    matrix = change.flatten(1).double()
    tall = matrix.shape[0] > matrix.shape[1]
    short = matrix.T if tall else matrix
    energies, vectors = torch.linalg.eigh(short @ short.T)
    rank = min(rank, len(energies))
    basis = vectors[:, -rank:].flip(1)
    rest = basis.T @ short
    singular = energies[-rank:].flip(0).clamp_min(0).sqrt()
    real = singular > NOISE * singular[0]
    root = torch.where(real, singular.sqrt(), 1.0)
    left, right = basis * (root * real), rest * (real / root)[:, None]
    up, down = (right.T, left.T) if tall else (left, right)
    lost = float((short - left @ right).square().sum())
    layer = LoraLayer(
        down.reshape(rank, *change.shape[1:]).float().cpu().contiguous(),
        up.reshape(-1, rank, *(1 for _ in change.shape[2:])).float().cpu().contiguous(),
        float(rank),
    )
    return layer, Fit(name, float(matrix.square().sum()), lost)
