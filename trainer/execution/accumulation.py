"""The gradient of one optimizer step, accumulated over as many forward passes as memory requires."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.data.batches import LatentBatch
from trainer.execution.gradient_checkpointing import GradientCheckpointing
from trainer.randomness import NamedGenerators
from trainer.trainables.trainable import Trainable

Backward = Callable[[LatentBatch, float], dict[str, Tensor]]
"""Adds the gradients of a batch, whose loss counts by the given share, and returns its losses."""


class GradientSource(Protocol):
    """Adds all gradients of a step. `parts`: into how many each micro-batch is split."""

    parts: int

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        """Returns the mean losses. Raises OutOfMemory."""


class AroundGradientSource:
    """What a source that is put around another one has of it: into how many this process splits its micro-batches."""

    def __init__(self, inner: GradientSource) -> None:
        self._inner = inner

    @property
    def parts(self) -> int:
        return self._inner.parts

    @parts.setter
    def parts(self, parts: int) -> None:
        self._inner.parts = parts


class OutOfMemory(RuntimeError):
    """Not even a single image fits."""


@dataclass
class Accumulation:
    """Every image counts alike, whatever batch it is in. `parts`: into how many each micro-batch is split, 1 at first.

    Out of memory, the step starts over with twice as many parts: the same images, the same effective batch. Where a
    single image does not fit, it starts over with gradient checkpointing, if it may. `starts_over`: whether it can; not
    where other processes wait inside of this one's pass.
    """

    generators: NamedGenerators
    trainables: Sequence[Trainable]
    checkpointing: GradientCheckpointing
    parts: int = 1
    starts_over: bool = True

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        """Add all gradients of a step. Returns the mean losses. Raises OutOfMemory."""
        before, whole_draws = self.generators.state_dict(), torch.get_rng_state()
        while True:
            split = [part for batch in batches for part in batch.split(self.parts)]
            losses = _attempt(split, backward)
            if losses is not None:
                return losses
            if not self.starts_over:
                raise OutOfMemory(_remedies_at_once(self.checkpointing))
            if any(len(part.captions) > 1 for part in split):
                self.parts *= 2
            elif self.checkpointing.start():
                self.parts = 1
            else:
                raise OutOfMemory(_remedies(self.checkpointing))
            self._start_over(before, whole_draws)

    def _start_over(self, generators: dict[str, Tensor], global_state: Tensor) -> None:
        for trainable in self.trainables:
            trainable.optimizer.zero_grad(set_to_none=True)
        self.generators.load_state_dict(generators)
        torch.set_rng_state(global_state)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _remedies(checkpointing: GradientCheckpointing) -> str:
    option = "" if checkpointing.on else "set gradient_checkpointing: always, "
    return f"out of memory with a single image: {option}lower resolution or rank, or use a larger GPU"


def _remedies_at_once(checkpointing: GradientCheckpointing) -> str:
    option = "" if checkpointing.on else "gradient_checkpointing: always, or "
    return (
        "out of memory, and with shard_base a step cannot start over, for the other processes are in the midst of it: "
        f"set {option}a smaller train_batch_size (more gradient_accumulation_steps keep the effective batch)"
    )


def _attempt(batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor] | None:
    """The mean losses; None when the memory did not do. In a function of its own, so that its tensors are gone then."""
    images = sum(len(batch.captions) for batch in batches)
    mean: dict[str, Tensor] = {}
    try:
        for batch in batches:
            share = len(batch.captions) / images
            for name, loss in backward(batch, share).items():
                mean[name] = mean[name] + share * loss if name in mean else share * loss
    except torch.OutOfMemoryError:
        return None
    return mean
