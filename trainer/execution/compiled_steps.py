"""Training steps through compiled blocks.

Outside the steps (samples, validation, verification) the model runs uncompiled, so that only the shapes of the training
are compiled.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from families.parts.compiled_blocks import CompiledBlocks
from settings.sections.speed import SpeedSection
from trainer.data.batches import LatentBatch
from trainer.execution.accumulation import AroundGradientSource, Backward, GradientSource

PAYS_FROM = 300.0
"""Remaining training time in seconds from which `auto` compiles. SDXL at 512×512 on an H200: the first steps take 23 s
longer, a later one 118 ms instead of 138 (docs/performance.md)."""
STEPS_TO_MEASURE = 10


def compiles(speed: SpeedSection, device: torch.device) -> bool:
    """Whether this run may compile. `auto` does not compile on a CPU, where it takes minutes."""
    return speed.compile == "always" or (speed.compile == "auto" and device.type == "cuda")


class CompiledSteps(AroundGradientSource):
    """A gradient source that runs through compiled blocks: from the first step, or once the run proves long enough."""

    def __init__(
        self,
        inner: GradientSource,
        blocks: Callable[[], CompiledBlocks],
        at_once: bool,
        steps_left: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._make, self._at_once = blocks, at_once
        self._steps_left, self._clock = steps_left, clock
        self._blocks: CompiledBlocks | None = None
        self._starts: list[float] = []

    def run(self, batches: Sequence[LatentBatch], backward: Backward) -> dict[str, Tensor]:
        if self._blocks is None and self._pays():
            self._blocks = self._make()
        if self._blocks is None:
            return self._inner.run(batches, backward)
        with self._blocks.in_use():
            return self._inner.run(batches, backward)

    def _pays(self) -> bool:
        """Decide once, from the time between the starts of the first steps, leaving out the very first."""
        if self._at_once:
            return True
        if len(self._starts) == STEPS_TO_MEASURE:
            return False
        self._starts.append(self._clock())
        if len(self._starts) < STEPS_TO_MEASURE:
            return False
        seconds = (self._starts[-1] - self._starts[1]) / (STEPS_TO_MEASURE - 2)
        return seconds * self._steps_left() >= PAYS_FROM
