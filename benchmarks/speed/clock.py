"""The clock of the predictor's benchmarks: wall time where there is a GPU, else CPU time of the process."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(action: Callable[[], Result]) -> tuple[Result, float]:
    """Return what `action` returns, and the seconds that it took."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    started = clock()
    result = action()
    if cuda:
        torch.cuda.synchronize()
    return result, clock() - started


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes."""
    return timed(action)[1]
