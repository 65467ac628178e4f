"""Lion (Chen et al. 2023, arXiv 2302.06675): the sign of a momentum, so that one state is kept instead of two."""

from collections.abc import Sequence
from typing import Any

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import Flat
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup


def lion(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Its rule works element by element, so all parameters lie in one vector. Every step is as large as the rate."""
    package: Any = import_extra("lion")

    class FlatLion(Flat, package.Lion):
        """lion-pytorch's has some calls for each tensor."""

    kind: Any = FlatLion if settings.flat else package.Lion
    optimizer: torch.optim.Optimizer = kind(groups, lr=settings.learning_rate, betas=BETAS)
    return optimizer
