"""Accumulates the gradients of one optimizer step, over as many forward passes as the memory requires."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.data.batches import LatentBatch
from trainer.execution.gradient_checkpointing import GradientCheckpointing
from trainer.losses.term import OF_IMAGES
from trainer.randomness import NamedGenerators
from trainer.trainables.trainable import Trainable

Backward = Callable[[LatentBatch, float], dict[str, Tensor]]
"""Adds the gradients of a batch, whose loss is weighted by the given share, and returns its losses."""


class GradientSource(Protocol):
    """Computes all gradients of a step. `parts`: the number of parts that each micro-batch is split into."""

    parts: int

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        """Add the gradients of `batches`. Returns the mean losses. Raises OutOfMemory."""


class AroundGradientSource:
    """Base class of sources that wrap another one (`inner`). Delegates `parts`."""

    def __init__(self, inner: GradientSource) -> None:
        self._inner = inner

    @property
    def parts(self) -> int:
        return self._inner.parts

    @parts.setter
    def parts(self, parts: int) -> None:
        self._inner.parts = parts


class OutOfMemory(RuntimeError):
    """Raised when not even a single image fits into memory."""


@dataclass
class Accumulation:
    """Accumulates gradients so that every image has the same weight, in every batch.

    `parts`: the number of parts of each micro-batch, 1 at first. When the memory is full, the step is repeated with
    twice as many parts: the same images and the same effective batch size. When a single image does not fit, it is
    repeated with gradient checkpointing, if allowed. `starts_over`: whether a step can be repeated. It cannot if other
    processes wait inside this one's forward pass. `forget`: called before a step is repeated.
    """

    generators: NamedGenerators
    trainables: Sequence[Trainable]
    checkpointing: GradientCheckpointing
    parts: int = 1
    starts_over: bool = True
    forget: Callable[[], None] = lambda: None

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
        self.forget()
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
        "out of memory; with shard_base a step cannot be repeated, because the other processes are still running it: "
        f"set {option}a smaller train_batch_size (more gradient_accumulation_steps keep the effective batch)"
    )


def _attempt(batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor] | None:
    """Return the mean losses, None when out of memory. A separate function, so that its tensors are freed on return.

    Means over images are weighted as in the gradient: images that fill up a batch have less weight.
    """
    images = sum(len(batch.captions) for batch in batches)
    counted = sum(len(batch.captions) * batch.filling for batch in batches)
    mean: dict[str, Tensor] = {}
    try:
        for batch in batches:
            share = len(batch.captions) / images
            of_images = len(batch.captions) * batch.filling / counted
            for name, loss in backward(batch, share).items():
                part = loss * (of_images if name in OF_IMAGES else share)
                mean[name] = mean[name] + part if name in mean else part
    except torch.OutOfMemoryError:
        return None
    return mean
