"""Prodigy (Mishchenko & Defazio 2023), which estimates the learning rate itself, plain and schedule-free.

There is one estimate for all parameters of an optimizer, and it only increases. Adapter and tokens therefore have
separate optimizers: a common estimate would be too high for one of them. In fp16 its sums underflow to zero; trainables
are always fp32.
"""

from collections.abc import Sequence

import torch
from prodigyopt import Prodigy

from trainer.optimizers.extras import import_extra
from trainer.optimizers.flat import Flat
from trainer.optimizers.settings import BETAS, OptimizerSettings, ParameterGroup


class FlatProdigy(Flat, Prodigy):
    """Prodigy on flat tensors. prodigyopt transfers two sums from the device for each tensor."""


def prodigy(groups: Sequence[ParameterGroup], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Prodigy with `safeguard_warmup`: without it, the small rate of a warm-up makes the estimate diverge."""
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
    """Prodigy+ScheduleFree, without stochastic rounding, since the parameters are fp32."""
    package = import_extra("prodigy_schedule_free")
    optimizer: torch.optim.Optimizer = package.ProdigyPlusScheduleFree(
        groups,
        lr=settings.learning_rate,
        betas=BETAS,
        d_coef=settings.d_coef,
        stochastic_rounding=False,
    )
    return optimizer
