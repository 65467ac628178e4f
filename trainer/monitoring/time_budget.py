"""Ends a run and its schedules within a time limit."""

import time
from collections.abc import Callable

FIRST_LOOK = 5
"""Steps before the speed is believed; then it is looked at after twice as many, and so on."""
TOLERANCE = 1.02


class TimeBudget:
    """`seconds` of training steps, those of earlier parts of the run included; None: no limit."""

    def __init__(self, seconds: float | None, spent: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._since = seconds, clock, clock() - spent
        self._first: tuple[int, float] | None = None
        self._next_look = FIRST_LOOK

    @property
    def spent(self) -> float:
        """Seconds up to now."""
        return self._clock() - self._since

    def end(self, step: int, total: int) -> int:
        """At which step the run has to end, seen from `step`: `total`, or less where the time will not do."""
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
