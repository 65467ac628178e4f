"""Measures the duration of each phase of a job."""

import time
from collections.abc import Callable


class PhaseClock:
    """Measures one phase at a time; beginning one ends the previous. `seconds` by phase, in the order of first use."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._current: tuple[str, float] | None = None
        self._seconds: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """Start to measure the phase `name`, which may have been measured before."""
        self.end()
        self._current = (name, self._clock())
        self._seconds.setdefault(name, 0.0)

    def end(self) -> None:
        """Stop measuring the current phase."""
        if self._current is not None:
            name, since = self._current
            self._seconds[name] += self._clock() - since
            self._current = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase up to now."""
        if self._current is None:
            return dict(self._seconds)
        name, since = self._current
        return self._seconds | {name: self._seconds[name] + self._clock() - since}

    @property
    def total(self) -> float:
        """Seconds since the creation of the clock, including gaps between phases."""
        return self._clock() - self._started
