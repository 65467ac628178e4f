"""AdamW (Loshchilov & Hutter 2019): fused, with 8-bit moments, and schedule-free (Defazio et al. 2024)."""

from collections.abc import Sequence

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import Flat
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup

MOST_FLAT = 2**28
"""Largest number of elements to flatten. Their gradients are in memory twice during an update, which is one GiB more.
Full models have few large tensors, for which flattening is not faster."""
SCHEDULE_FREE_BETAS = (0.95, 0.99)
"""The first is the interpolation factor of the point at which gradients are computed, not a momentum."""


class FlatAdamW(Flat, torch.optim.AdamW):
    """AdamW on flat tensors. torch's own iterates over all tensors before its single kernel, while the GPU waits."""


def adamw(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Fused AdamW: one kernel for all parameters, on GPU and CPU."""
    elements = sum(parameter.numel() for group in groups for parameter in group["params"])
    kind = FlatAdamW if settings.flat and elements <= MOST_FLAT else torch.optim.AdamW
    return kind(groups, lr=settings.learning_rate, betas=BETAS, fused=True)


def adamw_8bit(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW with block-wise 8-bit moments (Dettmers et al. 2022), for training full models."""
    bitsandbytes = import_extra("adamw_8bit")
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=BETAS)
    return optimizer


def adamw_schedule_free(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Schedule-free AdamW, which averages weights instead of lowering the rate.

    Its `eval()` puts the averages into the parameters, `train()` restores the trained values.
    """
    schedulefree = import_extra("adamw_schedule_free")
    optimizer: torch.optim.Optimizer = schedulefree.AdamWScheduleFree(
        groups, lr=settings.learning_rate, betas=SCHEDULE_FREE_BETAS
    )
    return optimizer
