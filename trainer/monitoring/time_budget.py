"""Ends a run and its schedules within a time limit, including operations between steps."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

FIRST_LOOK, FIRST_SHARE = 5, 0.05
"""Number of steps, and share of the time, before the first estimate of the speed."""
GROWTH = 1.5
"""Factor between the steps of successive estimates."""
TOLERANCE, WORTH = 1.02, 1.1
"""Factors by which an estimate must differ to shorten the run, and to lengthen a shortened run again."""


@dataclass
class WorkBetween:
    """An operation between steps: after every `every` steps (None: not at intervals), and after the last one if
    `at_end` is set. `seconds`: its last duration; None: not known yet."""

    every: int | None
    at_end: bool = False
    seconds: float | None = None

    def cost(self, step: int, end: int) -> float:
        """Seconds in a run that continues after `step` and ends with `end`."""
        times = 0 if self.every is None else end // self.every - step // self.every
        last = self.at_end and (self.every is None or end % self.every != 0)
        return (times + last) * (self.seconds or 0.0)


class TimeBudget:
    """A limit of `seconds` for a run, including those before a resume. None: no limit."""

    def __init__(
        self,
        seconds: float | None,
        spent: float,
        clock: Callable[[], float] = time.monotonic,
        between: Sequence[WorkBetween] = (),
    ) -> None:
        self._seconds, self._clock, self._since = seconds, clock, clock() - spent
        self._between = between
        self._between_spent = 0.0
        self._first: tuple[int, float] | None = None
        self._next_look, self._done = FIRST_LOOK, 0
        self._most, self._set = 0, 0

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self._clock() - self._since

    @contextmanager
    def timing(self, work: WorkBetween) -> Iterator[None]:
        """Measure an operation between two steps inside this context. After its first measurement the end is estimated
        again."""
        before = self._clock()
        yield
        if work.seconds is None:
            self._next_look = 1
        work.seconds = self._clock() - before
        self._between_spent += work.seconds

    def end(self, step: int, total: int) -> int:
        """Return the step at which the run must end: `total`, or less if the time is not sufficient; in the first half
        of a run also more, if an earlier estimate has shortened it too much. `step` is the current one, before any
        operation after it."""
        if total != self._set:
            self._most = total
        self._set = self._end(step, total)
        return self._set

    def _end(self, step: int, total: int) -> int:
        if self._seconds is None or step >= total:
            return total
        if self._first is not None:
            self._done = step - self._first[0]
        if self._at_end(step + 1, step) > self._seconds:
            return step
        if self._first is None:
            self._first = (step, self._of_steps)
            return total
        if self._done < self._next_look or self.spent - self._first[1] < FIRST_SHARE * self._seconds:
            return total
        self._next_look = math.ceil(GROWTH * max(self._done, FIRST_LOOK))
        most = self._most if 2 * step < total else total
        fitting = bisect_right(range(step, most + 1), self._seconds, key=lambda end: self._at_end(end, step))
        possible = step + max(0, fitting - 1)
        return possible if possible * TOLERANCE < total or possible > total * WORTH else total

    def _at_end(self, end: int, step: int) -> float:
        """Seconds spent in total if the run ends with step `end`."""
        between = sum(work.cost(step - 1, end) for work in self._between)
        return self.spent + (end - step) * self._a_step + between

    @property
    def _a_step(self) -> float:
        """Mean seconds of a step without other operations; 0 before the first measurement."""
        return 0.0 if self._first is None or not self._done else (self._of_steps - self._first[1]) / self._done

    @property
    def _of_steps(self) -> float:
        return self.spent - self._between_spent
