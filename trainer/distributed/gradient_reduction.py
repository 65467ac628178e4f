"""The gradient of a step that several processes made together: data parallelism without a wrapped model.

Adapter and tokens are a hundredth of the base, so one reduction of their gradients at the end of a step costs little;
and what a step does in between (accumulation, several forward passes for one loss, a frozen phase) needs no care.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.data.batches import LatentBatch
from trainer.execution.accumulation import AroundGradientSource, Backward, GradientSource
from trainer.trainables.trainable import Trainable


class SharedGradients(AroundGradientSource):
    """A `GradientSource` whose gradients and losses are the mean over all processes, each with as many images."""

    def __init__(self, inner: GradientSource, trainables: Sequence[Trainable], accelerator: Accelerator) -> None:
        super().__init__(inner)
        self._trainables, self._accelerator = trainables, accelerator

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        """Add all gradients of a step, of all processes. Returns the mean losses. Raises OutOfMemory."""
        losses = self._inner.run(batches, backward)
        parameters = [each for trainable in self._trainables if not trainable.finished for each in trainable.parameters]
        for parameter in parameters:
            if parameter.grad is None:  # here no image needed it, elsewhere one may have
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self._mean([*gradients, *losses.values()])
        for parameter, gradient in zip(parameters, mean, strict=False):
            parameter.grad = gradient
        return dict(zip(losses, mean[len(parameters) :], strict=True))

    def _mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """In one message."""
        flat = self._accelerator.reduce(torch.cat([tensor.float().flatten() for tensor in tensors]), "mean")
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]
