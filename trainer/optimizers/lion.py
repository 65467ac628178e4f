"""Lion (Chen et al. 2023, arXiv 2302.06675): the sign of a momentum, so that it has one state instead of two."""

from collections.abc import Sequence
from typing import Any

import torch

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import Flat
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup


def lion(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Updates are elementwise, so all parameters are in one vector. Every update has the size of the learning rate."""
    package: Any = import_extra("lion")

    class FlatLion(Flat, package.Lion):
        """lion-pytorch has several calls for each tensor."""

    kind: Any = FlatLion if settings.flat else package.Lion
    optimizer: torch.optim.Optimizer = kind(groups, lr=settings.learning_rate, betas=BETAS)
    return optimizer
