"""Tests of `relay` and `drain`: they pass reports on, and return the result of the source."""

from collections.abc import Generator

import pytest

from preprocess.workers.relay import drain, relay


def counting(closed: list[bool]) -> Generator[int, None, str]:
    try:
        yield from range(4)
    finally:
        closed.append(True)
    return "done"


def test_reports_are_translated_and_the_result_comes_through() -> None:
    closed: list[bool] = []
    passed = relay(counting(closed), lambda number: f"{number} of 4" if number % 2 else None)
    assert [next(passed), next(passed)] == ["1 of 4", "3 of 4"]
    with pytest.raises(StopIteration) as stop:
        next(passed)
    assert stop.value.value == "done" and closed == [True]


def test_closing_closes_the_source() -> None:
    closed: list[bool] = []
    passed = relay(counting(closed), str)
    next(passed)
    passed.close()
    assert closed == [True]


def test_a_source_can_be_read_to_its_end() -> None:
    seen: list[int] = []
    assert drain(counting([]), seen.append) == "done" and seen == [0, 1, 2, 3]
