"""Ends a run and its schedules within a time limit."""

import time
from collections.abc import Callable

FIRST_LOOK = 5
"""Steps before the first estimate of the speed. Each further estimate follows after twice as many steps."""
TOLERANCE = 1.02


class TimeBudget:
    """A limit of `seconds` for training steps, including those before a resume. None: no limit."""

    def __init__(self, seconds: float | None, spent: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._since = seconds, clock, clock() - spent
        self._first: tuple[int, float] | None = None
        self._next_look = FIRST_LOOK

    @property
    def spent(self) -> float:
        """Seconds spent up to now."""
        return self._clock() - self._since

    def end(self, step: int, total: int) -> int:
        """Return the step at which the run must end: `total`, or less when the time is not enough. `step` is the
        current one."""
        if self._seconds is None:
            return total
        if self.spent >= self._seconds:
            return step
        if self._first is None:
            self._first = (step, self.spent)
            return total
        done = step - self._first[0]
        if done < self._next_look:
            return total
        self._next_look *= 2
        a_step = (self.spent - self._first[1]) / done
        possible = step + max(0, int((self._seconds - self.spent) / max(a_step, 1e-9)))
        return possible if possible * TOLERANCE < total else total
