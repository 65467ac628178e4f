"""Ctrl-C ends a command with one line instead of a traceback."""

import sys
from types import TracebackType

STOPPED = 130
"""Exit status of a command that SIGINT ended, by the convention of shells: 128 + 2."""


def one_line_for_interrupts() -> None:
    """Install it for interrupts that the command does not handle itself. Other errors keep their tracebacks."""
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)
