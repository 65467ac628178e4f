"""CAME (Luo et al. 2023, arXiv 2307.02047): Adafactor's row and column sums, and a measure of its own confidence."""

from collections.abc import Sequence

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.settings import OptimizerSettings, ParameterGroup

CAME_BETAS = (0.9, 0.99, 0.999)
"""Of update, squared gradient and instability. The second is `BETAS`'; the paper's are (0.9, 0.999, 0.9999), for runs
of hundreds of thousands of steps."""


def came(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Sums over rows and columns need the matrices as they are, not one flat vector."""
    package = import_extra("came")
    optimizer: torch.optim.Optimizer = package.CAME(groups, lr=settings.learning_rate, betas=CAME_BETAS)
    return optimizer
