"""The clock of the predictor's benchmarks: wall time where there is a GPU, else CPU time, with that of compilers."""

import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(action: Callable[[], Result]) -> tuple[Result, float]:
    """Return what `action` returns, and the seconds that it took."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else _cpu_seconds
    started = clock()
    result = action()
    if cuda:
        torch.cuda.synchronize()
    return result, clock() - started


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes."""
    return timed(action)[1]


def _cpu_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
