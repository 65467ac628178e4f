"""When checkpoints are due: at intervals of steps, epochs, or minutes of training."""

from collections.abc import Callable
from dataclasses import dataclass

from settings.sections.output import OutputSection


@dataclass
class CheckpointSchedule:
    """Called after every step. `steps_an_epoch`: optimizer steps per epoch, a fractional number. `seconds`: spent on
    steps so far.

    With minutes, a checkpoint is due at the first step after each full period, those before a resume included.
    """

    settings: OutputSection
    steps_an_epoch: float
    seconds: Callable[[], float]

    def __post_init__(self) -> None:
        self._periods = self._full_periods()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step. Must be called once per step."""
        before, self._periods = self._periods, self._full_periods()
        steps, epochs = self.settings.checkpointing_steps, self.settings.checkpointing_epochs
        if steps is not None:
            return step % steps == 0
        if epochs is not None:
            length = epochs * self.steps_an_epoch
            return int(step / length + ROUNDING) > int((step - 1) / length + ROUNDING)
        return self._periods > before

    def _full_periods(self) -> int:
        minutes = self.settings.checkpointing_minutes
        return 0 if minutes is None else int(self.seconds() / (60 * minutes))


ROUNDING = 1e-9
"""Tolerance for rounding: three epochs of 7 / 3 steps end with step 7, although 7 / (3 · 7 / 3) may be slightly less
than 1."""
