"""Adafactor (Shazeer & Stern 2018) with a fixed learning rate."""

from collections.abc import Sequence

import torch
from transformers import Adafactor

from trainer.optimizers.settings import OptimizerSettings, ParameterGroup


def adafactor(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Second moments as row and column sums. Steps are neither relative nor scaled by the parameters, whose size a LoRA
    that starts at zero does not tell."""
    optimizer: torch.optim.Optimizer = Adafactor(
        groups,
        lr=settings.learning_rate,
        scale_parameter=False,
        relative_step=False,
    )
    return optimizer
