"""Cases of a test of which the fast part runs a few: the others go the same way through the code."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def slow_but(fast: Sequence[Any], cases: Iterable[Any]) -> list[ParameterSet]:
    """`cases` for `pytest.mark.parametrize`: those that are not in `fast` are marked slow."""
    return [pytest.param(case, marks=() if case in fast else pytest.mark.slow) for case in cases]
