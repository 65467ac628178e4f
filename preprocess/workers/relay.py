"""Generators that yield progress and return a result: translated into other progress, or drained."""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

Report = TypeVar("Report")
Other = TypeVar("Other")
Result = TypeVar("Result")


def relay(
    source: Generator[Report, Any, Result], translate: Callable[[Report], Other | None]
) -> Generator[Other, None, Result]:
    """Yield `translate` of each report that is not None. Returns the source's result.

    Closing the generator closes the source.
    """
    try:
        while True:
            try:
                report = next(source)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if (other := translate(report)) is not None:
                yield other
    finally:
        source.close()


def drain(source: Generator[Report, Any, Result], see: Callable[[Report], None]) -> Result:
    """Pass every report to `see`, and return the result."""
    shown: Generator[Any, None, Result] = relay(source, see)
    try:
        next(shown)
    except StopIteration as stop:  # relay yields nothing, since `see` returns None
        result: Result = stop.value
        return result
    raise AssertionError("`see` returned a value")
