"""CAME (Luo et al. 2023, arXiv 2307.02047): Adafactor's row and column sums, and a confidence of the update."""

from collections.abc import Sequence

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.settings import OptimizerSettings, ParameterGroup

CAME_BETAS = (0.9, 0.99, 0.999)
"""Decay rates of update, squared gradient and instability. The second is that of `BETAS`; the paper's are (0.9, 0.999,
0.9999), for runs of hundreds of thousands of steps."""


def came(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Row and column sums need the original matrices, not one flat vector."""
    package = import_extra("came")
    optimizer: torch.optim.Optimizer = package.CAME(groups, lr=settings.learning_rate, betas=CAME_BETAS)
    return optimizer
