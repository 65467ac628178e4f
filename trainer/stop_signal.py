"""Ctrl-C and SIGTERM: at once where nothing is lost, else after the step that is under way."""

import signal
from types import FrameType, TracebackType


class Stopped(BaseException):
    """The user, or the program above, wants the training to end."""


class StopSignal:
    """While active, signals raise Stopped; while `deferred` is true they only set `requested`. A second one raises."""

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False
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
        if self.requested or not self.deferred:
            raise Stopped
        self.requested = True
