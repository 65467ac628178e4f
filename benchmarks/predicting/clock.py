"""The clock of the predictor's benchmarks: wall time with a GPU, otherwise CPU time, including that of compilers."""

import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(action: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of `action`, and its duration in seconds."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else _cpu_seconds
    started = clock()
    result = action()
    if cuda:
        torch.cuda.synchronize()
    return result, clock() - started


def seconds(action: Callable[[], object]) -> float:
    """Return the duration of `action` in seconds."""
    return timed(action)[1]


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its finished child processes."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
