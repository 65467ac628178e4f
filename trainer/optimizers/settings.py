"""The settings of an optimizer."""

from dataclasses import dataclass
from typing import Any

from settings.sections.optimization import OptimizerName

BETAS = (0.9, 0.99)
"""Short averaging of squared gradients: a fine-tuning has hundreds of steps, not hundreds of thousands."""


ParameterGroup = dict[str, Any]
"""As torch.optim reads it: `params`, their `weight_decay`, and their `lr` where it is another than the others'."""


@dataclass(frozen=True)
class OptimizerSettings:
    """One trainable's. `learning_rate`: peak of the schedule. `d_coef`: factor of Prodigy's estimate of the rate.

    `up_ratio`: how many times faster up projections learn (LoRA+, Hayou et al. 2024, arXiv 2402.12354).

    `flat`: whether parameters may be moved into one tensor; those in the memory of a sharded weight may not.
    """

    name: OptimizerName
    learning_rate: float
    weight_decay: float = 0.0
    d_coef: float = 1.0
    up_ratio: float = 1.0
    flat: bool = True
