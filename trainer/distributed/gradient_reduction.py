"""Data parallelism without a wrapped model: gradients are averaged over all processes once per optimizer step.

Adapter and tokens are about 1 % of the base, so one reduction per step costs little. Accumulation, several forward
passes for one loss, and frozen phases need no special treatment. Gradients of shards are averaged by FSDP2 already.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.data.batches import LatentBatch
from trainer.distributed.shards import Shard
from trainer.execution.accumulation import AroundGradientSource, Backward, GradientSource
from trainer.trainables.trainable import Trainable


class SharedGradients(AroundGradientSource):
    """A `GradientSource` whose gradients and losses are the mean over all processes, which have equally many images."""

    def __init__(self, inner: GradientSource, trainables: Sequence[Trainable], accelerator: Accelerator) -> None:
        super().__init__(inner)
        self._trainables, self._accelerator = trainables, accelerator

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        """Accumulate the mean gradients of all processes. Returns the mean losses. Raises OutOfMemory."""
        losses = self._inner.run(batches, backward)
        trained = [each for trainable in self._trainables if not trainable.finished for each in trainable.parameters]
        for parameter in trained:
            if isinstance(parameter, Shard):
                parameter.take_gradient()
        parameters = [parameter for parameter in trained if not isinstance(parameter, Shard)]
        for parameter in parameters:
            if parameter.grad is None:  # unused on this rank, but maybe used on another one
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self._mean([*gradients, *losses.values()])
        for parameter, gradient in zip(parameters, mean, strict=False):
            parameter.grad = gradient
        return dict(zip(losses, mean[len(parameters) :], strict=True))

    def _mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over all processes, by one all-reduce."""
        flat = self._accelerator.reduce(torch.cat([tensor.float().flatten() for tensor in tensors]), "mean")
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]
