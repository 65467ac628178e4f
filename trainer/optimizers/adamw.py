"""AdamW (Loshchilov & Hutter 2019): fused, with 8-bit moments, and schedule-free (Defazio et al. 2024)."""

from collections.abc import Sequence

import torch
from torch import nn

from trainer.optimizers.extras import import_extra
from trainer.optimizers.settings import BETAS, OptimizerSettings

SCHEDULE_FREE_BETAS = (0.95, 0.99)
"""The first is the share of the average in the point where gradients are taken, not a momentum."""


def adamw(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """One fused kernel for all parameters, on a GPU and on a CPU."""
    return torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay, fused=True
    )


def adamw_8bit(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Moments in blocks of 8 bits (Dettmers et al. 2022): worth it where whole models are trained."""
    bitsandbytes = import_extra("adamw_8bit")
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=settings.weight_decay
    )
    return optimizer


def adamw_schedule_free(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Averages in place of a falling rate. Its `eval()` puts the averages into the parameters, `train()` takes them
    out again."""
    schedulefree = import_extra("adamw_schedule_free")
    optimizer: torch.optim.Optimizer = schedulefree.AdamWScheduleFree(
        parameters, lr=settings.learning_rate, betas=SCHEDULE_FREE_BETAS, weight_decay=settings.weight_decay
    )
    return optimizer
