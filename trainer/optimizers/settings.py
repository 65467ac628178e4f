"""The settings of an optimizer."""

from dataclasses import dataclass
from typing import Any

from settings.sections.optimization import OptimizerName

BETAS = (0.9, 0.99)
"""Short averaging of squared gradients: a fine-tuning has hundreds of steps, not hundreds of thousands."""


ParameterGroup = dict[str, Any]
"""As for torch.optim: `params`, their `weight_decay`, and their `lr` if it differs from the others'."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of one trainable. `learning_rate`: peak of the schedule. `d_coef`: factor of Prodigy's estimate of the
    rate.

    `up_ratio`: ratio of the up projections' learning rate to that of the down projections (LoRA+, Hayou et al. 2024,
    arXiv 2402.12354).

    `flat`: whether parameters may be moved into one tensor; those in the memory of a sharded weight may not.
    """

    name: OptimizerName
    learning_rate: float
    weight_decay: float = 0.0
    d_coef: float = 1.0
    up_ratio: float = 1.0
    flat: bool = True
