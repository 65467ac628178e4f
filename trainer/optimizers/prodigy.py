"""Prodigy (Mishchenko & Defazio 2023): finds the learning rate itself, plain and schedule-free.

One estimate serves all parameters of an optimizer and only grows: adapter and tokens have an optimizer each, else the
one that needs the larger steps burns the other. In fp16 its sums underflow to zero; trainables are fp32 always.
"""

from collections.abc import Sequence

import torch
from prodigyopt import Prodigy

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import Flat
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup


class FlatProdigy(Flat, Prodigy):
    """prodigyopt's reads two sums back for each tensor."""


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
