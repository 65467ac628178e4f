"""Progress output of all commands: a progress bar on a terminal, few lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Report(Protocol):
    """Progress of a stage, `done` of `total`; or a message that is printed once, where `stage` is None.

    `note`: a short text after the bar, such as the loss. `str()` gives the whole line.
    """

    @property
    def stage(self) -> str | None: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def note(self) -> str: ...
    @property
    def warning(self) -> bool: ...


Show = Callable[[Report], None]


class Pace:
    """Limits printed lines to one every 5 seconds, and the last one of each stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: returns seconds."""
        self._clock = clock
        self._last = float("-inf")

    def is_due(self, report: Report) -> bool:
        """Whether to print this report; it then counts as printed. Messages without a stage are always printed."""
        if report.stage is None:
            return True
        now = self._clock()
        if report.done < report.total and now - self._last < SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


class Bar:
    """A progress bar on stderr, one for each stage. Messages without a stage are printed above it."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._stage: str | None = None

    def show(self, report: Report) -> None:
        """Update the bar, or print the message."""
        if report.stage is None:
            tqdm.write(str(report), file=sys.stdout)
            sys.stdout.flush()
            return
        bar = self._bar_of(report.stage, report.total)
        bar.set_postfix_str(report.note, refresh=False)
        bar.update(report.done - bar.n)
        if report.done >= report.total:
            self.close()

    def close(self) -> None:
        """Leave the bar on the screen, and go to the next line."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _bar_of(self, stage: str, total: int) -> "tqdm[NoReturn]":
        if stage != self._stage:
            self.close()
        if self._bar is None:
            self._bar = tqdm(desc=stage, total=total, bar_format=BAR, dynamic_ncols=True, file=sys.stderr)
        self._stage, self._bar.total = stage, total  # a time limit changes the number of steps
        return self._bar


@contextmanager
def progress_display(*, quiet: bool = False, lines: TextIO | None = None) -> Iterator[Show]:
    """Yield a function that shows reports: a bar where stderr is a terminal, else lines in `lines` (None: stdout).

    `quiet`: warnings only.
    """
    if not quiet and sys.stderr.isatty():
        bar = Bar()
        try:
            yield bar.show
        finally:
            bar.close()
        return
    pace = Pace()

    def show(report: Report) -> None:
        if report.warning or (not quiet and pace.is_due(report)):
            print(report, file=lines, flush=True)

    yield show
