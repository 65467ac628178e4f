"""When checkpoints are due: at intervals of steps, epochs, or minutes of training."""

from collections.abc import Callable
from dataclasses import dataclass

from settings.sections.output import OutputSection


@dataclass
class CheckpointSchedule:
    """Asked after every step. `steps_an_epoch`: optimizer steps, with a fraction. `seconds`: spent on steps up to now.

    With minutes, a checkpoint is due at the first step after each full period, those before a resume included.
    """

    settings: OutputSection
    steps_an_epoch: float
    seconds: Callable[[], float]

    def __post_init__(self) -> None:
        self._periods = self._full_periods()

    def due(self, step: int) -> bool:
        """Whether a checkpoint of this step is due. To be asked once a step."""
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
"""An epoch of 7 / 3 steps ends with step 7, although 7 / (3 · 7 / 3) may be a little less than 1."""
