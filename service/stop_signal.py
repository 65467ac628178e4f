"""Handles Ctrl-C and SIGTERM: immediately if nothing would be lost, otherwise after the current step."""

import signal
import time
from types import FrameType, TracebackType

from job.endings import Stopped

SAME_SIGNAL_SECONDS = 1.0
"""Launchers forward signals that the whole process group has already received. A repeated signal within this time is
ignored."""


class StopSignal:
    """While active, signals raise Stopped; while `deferred` is true they only set `requested`. A second signal
    raises."""

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False
        self._requested_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._requested_at < SAME_SIGNAL_SECONDS:
            return
        if self.requested or not self.deferred:
            raise Stopped
        self.requested, self._requested_at = True, time.monotonic()
