"""Measures the duration of each phase of a job."""

import time
from collections.abc import Callable


class PhaseClock:
    """One phase at a time: beginning one ends the one before. `seconds` by phase, in the order of first use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._current: tuple[str, float] | None = None
        self._seconds: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """From now on time counts for `name`; a phase may be entered again."""
        self.end()
        self._current = (name, self._clock())
        self._seconds.setdefault(name, 0.0)

    def end(self) -> None:
        """Stop counting for the current phase."""
        if self._current is not None:
            name, since = self._current
            self._seconds[name] += self._clock() - since
            self._current = None

    @property
    def seconds(self) -> dict[str, float]:
        """By phase, up to now."""
        if self._current is None:
            return dict(self._seconds)
        name, since = self._current
        return self._seconds | {name: self._seconds[name] + self._clock() - since}

    @property
    def total(self) -> float:
        """Since the clock was made, gaps included."""
        return self._clock() - self._started
