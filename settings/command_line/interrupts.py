"""A Ctrl-C ends a command with one line, in place of the trace of where it was."""

import sys
from types import TracebackType

STOPPED = 130
"""Exit status, as shells have it."""


def one_line_for_interrupts() -> None:
    """From here on, for interrupts that the command does not handle itself. Other errors keep their traces."""
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)
