"""The settings of an optimizer."""

from dataclasses import dataclass
from typing import Any

from settings.sections.optimization import OptimizerName

BETAS = (0.9, 0.99)
"""Short averaging of squared gradients: a fine-tuning has hundreds of steps, not hundreds of thousands."""


ParameterGroup = dict[str, Any]
"""A parameter group of torch.optim: `params` and their `weight_decay`."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of one trainable's optimizer.

    `learning_rate`: peak of the schedule. `d_coef`: factor of Prodigy's estimate of the rate.
    """

    name: OptimizerName
    learning_rate: float
    weight_decay: float = 0.0
    d_coef: float = 1.0
