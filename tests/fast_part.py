"""Marks cases of a test as slow, so that the fast part of the suite runs a few. The others run the same code."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def slow_but(fast: Sequence[Any], cases: Iterable[Any]) -> list[ParameterSet]:
    """`cases` for `pytest.mark.parametrize`: those that are not in `fast` are marked slow."""
    return [pytest.param(case, marks=() if case in fast else pytest.mark.slow) for case in cases]
