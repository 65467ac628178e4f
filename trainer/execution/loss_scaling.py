"""Loss scaling for fp16, whose smallest number is 6e-8: gradients below it would be zero (Micikevicius et al. 2018).

The loss is multiplied by a large factor before the backward pass, and the gradients are divided by it afterwards. If
one overflows, the step is skipped, and the factor is halved; after many steps without overflow it is doubled.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.trainables.trainable import Trainable, TrainingDiverged

SMALLEST = 1.0
"""Gradients that overflow at this factor would not be finite without it either."""


class LossScaling:
    """torch's GradScaler over all trainables: either all of them step or none."""

    def __init__(self, trainables: Sequence[Trainable], accelerator: Accelerator) -> None:
        """If accelerate runs autocast in fp16, it has its own scaler, and multiplies by its factor in `backward`."""
        self._scaled_by_accelerate = accelerator.scaler is not None
        self._scaler: Any = accelerator.scaler or torch.amp.GradScaler(accelerator.device.type)
        self._trainables = trainables
        self._all = _AllTrainables(trainables)

    @property
    def factor(self) -> float:
        """The factor of the next loss."""
        return float(self._scaler.get_scale())

    def scale(self, loss: Tensor) -> Tensor:
        """The loss for the backward pass: ()."""
        scaled: Tensor = loss if self._scaled_by_accelerate else self._scaler.scale(loss)
        return scaled

    def unscale(self) -> None:
        """Divide the step's gradients by the factor, before they are clipped."""
        self._scaler.unscale_(self._all)

    def update(self) -> bool:
        """Update all trainables, or none if a gradient has overflowed. Returns whether they were updated. Schedules
        advance in both cases. Raises TrainingDiverged if gradients overflow with every factor.
        """
        self._all.stepped = False
        self._scaler.step(self._all)
        self._scaler.update()
        if not self._all.stepped:
            for trainable in self._trainables:
                trainable.skip()
            if self.factor < SMALLEST:
                raise TrainingDiverged(
                    "mixed_precision: fp16: the gradients overflow with every loss scale. Train in bf16, "
                    "or with mixed_precision: no"
                )
        return self._all.stepped

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, and the number of steps since it changed."""
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)


class _AllTrainables(torch.optim.Optimizer):
    """Represents the optimizers of all trainables, some of which have flat copies of their parameters."""

    def __init__(self, trainables: Sequence[Trainable]) -> None:
        super().__init__([parameter for trainable in trainables for parameter in trainable.parameters], {})
        self._trainables = trainables
        self.stepped = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for trainable in self._trainables:
            trainable.update()
        self.stepped = True
