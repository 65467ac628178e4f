"""Conditions on an image's metadata. They are parsed and compared, never evaluated."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "contains": lambda text, part: part in text,
}
ORDERINGS = (">=", "<=", ">", "<")
LONGEST_FILTER = 500
"""In characters. The time of parsing grows with their square."""
_FILTER = re.compile(r"\s*([\w.\-]+)\s*(>=|<=|==|!=|>|<|\bcontains\b)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """`field comparison value`, such as `aesthetic_score > 4.5` or `license == "CC0"`."""

    field: str
    comparison: str
    value: str

    def __str__(self) -> str:
        return f"{self.field} {self.comparison} {self.value}"

    def refuses(self, metadata: Mapping[str, Any]) -> str | None:
        """Return why an image with these metadata is left out; None when it meets the condition."""
        if metadata.get(self.field) in (None, ""):
            return f"its metadata has no {self.field}, which the filter {str(self)!r} needs"
        found, wanted = _comparable(metadata[self.field], self.value, self.comparison)
        if found is None:
            return f"{self.field} is {metadata[self.field]!r}; the filter {str(self)!r} needs a number"
        if COMPARISONS[self.comparison](found, wanted):
            return None
        return f"{self.field} is {metadata[self.field]}; the filter requires {self}"


def parse_filter(text: str) -> Filter:
    """Parse a condition. Raises ValueError with the expected form."""
    if len(text) > LONGEST_FILTER:
        raise ValueError(f"{text[:40]!r}… has more than {LONGEST_FILTER} characters")
    match = _FILTER.fullmatch(text)
    if not match or not match[3]:
        raise ValueError(f"{text!r} is not a condition; write a field, one of {' '.join(COMPARISONS)}, and a value")
    condition = Filter(match[1], match[2], match[3].strip("\"'"))
    if condition.comparison in ORDERINGS and _number(condition.value) is None:
        raise ValueError(f"{text!r} compares with {condition.value!r}, which is not a number")
    return condition


def refused_by(filters: Iterable[Filter], metadata: Mapping[str, Any]) -> str | None:
    """Return the reason of the first filter that the image does not meet."""
    return next((reason for condition in filters if (reason := condition.refuses(metadata))), None)


def _comparable(found: Any, wanted: str, comparison: str) -> tuple[Any, Any]:
    """Return numbers where both values are numbers, else texts; (None, …) where an ordering needs numbers."""
    if comparison == "contains":
        return str(found), wanted
    numbers = _number(found), _number(wanted)
    if None not in numbers:
        return numbers
    return (None, None) if comparison in ORDERINGS else (str(found), wanted)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
