"""Adafactor (Shazeer & Stern 2018) with a fixed learning rate."""

from collections.abc import Sequence

import torch
from transformers import Adafactor

from trainer.optimizers.settings import OptimizerSettings, ParameterGroup


def adafactor(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Adafactor with second moments as row and column sums, and with steps of the given learning rate.

    Relative steps and parameter scaling are off: a LoRA starts at zero, so the size of its parameters has no meaning.
    """
    optimizer: torch.optim.Optimizer = Adafactor(
        groups,
        lr=settings.learning_rate,
        scale_parameter=False,
        relative_step=False,
    )
    return optimizer
