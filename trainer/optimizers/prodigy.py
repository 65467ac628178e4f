"""Prodigy (Mishchenko & Defazio 2023): finds the learning rate itself, plain and schedule-free.

One estimate serves all parameters of an optimizer and only grows: adapter and tokens have an optimizer each, else the
one that needs the larger steps burns the other. In fp16 its sums underflow to zero; trainables are fp32 always.
"""

from collections.abc import Sequence
from typing import Any

import torch
from prodigyopt import Prodigy

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import FlatParameters
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup


class FlatProdigy(Prodigy):
    """prodigyopt's, over one flat tensor a group: it reads two sums back for each tensor, which with 1,120 of SDXL's
    attention would stop the GPU as often."""

    def __init__(self, groups: Sequence[ParameterGroup], **options: Any) -> None:
        self._flat = [FlatParameters(group["params"]) for group in groups]
        whole = [{**group, "params": [flat.whole]} for group, flat in zip(groups, self._flat, strict=True)]
        super().__init__(whole, **options)
        for flat in self._flat:
            self.register_step_pre_hook(flat.gather_gradients)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of the model's parameters, too."""
        super().zero_grad(set_to_none)
        for flat in self._flat:
            flat.clear_gradients()


def prodigy(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """`safeguard_warmup`, because a small rate in the denominator of the estimate makes it explode while warming up."""
    optimizer: torch.optim.Optimizer = FlatProdigy(
        groups,
        lr=settings.learning_rate,
        betas=BETAS,
        d_coef=settings.d_coef,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    return optimizer


def prodigy_schedule_free(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Prodigy+ScheduleFree. No stochastic rounding: the parameters are fp32."""
    package = import_extra("prodigy_schedule_free")
    optimizer: torch.optim.Optimizer = package.ProdigyPlusScheduleFree(
        groups,
        lr=settings.learning_rate,
        betas=BETAS,
        d_coef=settings.d_coef,
        stochastic_rounding=False,
    )
    return optimizer
