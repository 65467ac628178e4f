"""Scales trained tokens towards the usual norm after every step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def retract(
    optimizer: torch.optim.Optimizer, rows: Sequence[nn.Parameter], usual: Sequence[float], power: float
) -> None:
    """After each step of `optimizer`: e ← e · (μ / ‖e‖)^power for every row e of `rows`, (n, d) each.

    `usual`: μ of each text encoder, the mean norm of its vocabulary. A power of 0.1 is weak (diffusers' advanced
    scripts use the deviation instead of the norm), 1 keeps every row at μ. Not for Prodigy, which measures the distance
    of the parameters from their initial values.
    """

    def after_step(*_: object) -> None:
        with torch.no_grad():
            for row, length in zip(rows, usual, strict=True):
                row.mul_((length / row.norm(dim=1, keepdim=True).clamp(min=1e-12)).pow(power))

    optimizer.register_step_post_hook(after_step)


def usual_norms(vocabularies: Sequence[Tensor]) -> list[float]:
    """Return the mean norm of the rows of each table (V, d)."""
    return [float(table.detach().float().norm(dim=1).mean()) for table in vocabularies]
