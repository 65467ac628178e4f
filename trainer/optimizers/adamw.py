"""AdamW (Loshchilov & Hutter 2019): fused, with 8-bit moments, and schedule-free (Defazio et al. 2024)."""

from collections.abc import Sequence

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import Flat
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup

MOST_FLAT = 2**28
"""Elements: their gradients lie in memory twice during an update, a GiB more. Whole models have few large tensors."""
SCHEDULE_FREE_BETAS = (0.95, 0.99)
"""The first is the share of the average in the point where gradients are taken, not a momentum."""


class FlatAdamW(Flat, torch.optim.AdamW):
    """torch's looks at each tensor before its one kernel, while the GPU waits."""


def adamw(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """One fused kernel for all parameters, on a GPU and on a CPU."""
    elements = sum(parameter.numel() for group in groups for parameter in group["params"])
    kind = FlatAdamW if elements <= MOST_FLAT else torch.optim.AdamW
    return kind(groups, lr=settings.learning_rate, betas=BETAS, fused=True)


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
