"""AdamW (Loshchilov & Hutter 2019): fused, with 8-bit moments, and schedule-free (Defazio et al. 2024)."""

from collections.abc import Sequence

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup

SCHEDULE_FREE_BETAS = (0.95, 0.99)
"""The first is the share of the average in the point where gradients are taken, not a momentum."""


def adamw(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """One fused kernel for all parameters, on a GPU and on a CPU."""
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)


def adamw_8bit(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Moments in blocks of 8 bits (Dettmers et al. 2022): worth it where whole models are trained."""
    bitsandbytes = import_extra("adamw_8bit")
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=settings.learning_rate, betas=BETAS)
    return optimizer


def adamw_schedule_free(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Averages in place of a falling rate. Its `eval()` puts the averages into the parameters, `train()` takes them
    out again."""
    schedulefree = import_extra("adamw_schedule_free")
    optimizer: torch.optim.Optimizer = schedulefree.AdamWScheduleFree(
        groups, lr=settings.learning_rate, betas=SCHEDULE_FREE_BETAS
    )
    return optimizer
