"""How commands show their progress: a bar that is rewritten on a terminal, few lines elsewhere. One rule for all."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Report(Protocol):
    """How far a stage is, `done` of `total`; or, where `stage` is None, a text that is said once.

    `note`: a few words that stand behind the bar, such as the loss. As a string it is the whole line.
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
    """Which reports are worth a line where every line stays: one each 5 seconds, and the last one of each stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds."""
        self._clock = clock
        self._last = float("-inf")

    def is_due(self, report: Report) -> bool:
        """Whether to print this one; it counts as printed then. Texts that belong to no stage always are."""
        if report.stage is None:
            return True
        now = self._clock()
        if report.done < report.total and now - self._last < SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


class Bar:
    """One line on stderr that is rewritten, and a new one for each stage. What belongs to no stage stands above it."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._stage: str | None = None

    def show(self, report: Report) -> None:
        """Draw the bar, or print the text."""
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
        """Leave the bar as it is, and go to the next line."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _bar_of(self, stage: str, total: int) -> "tqdm[NoReturn]":
        if stage != self._stage:
            self.close()
        if self._bar is None:
            self._bar = tqdm(desc=stage, total=total, bar_format=BAR, dynamic_ncols=True, file=sys.stderr)
        self._stage, self._bar.total = stage, total  # a limit of time changes the number of steps
        return self._bar


@contextmanager
def progress_display(*, quiet: bool = False, lines: TextIO | None = None) -> Iterator[Show]:
    """What shows the reports of a command: a bar where stderr is a terminal, else lines in `lines` (stdout).

    `quiet`: warnings alone.
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
