"""Marks of settings for untrusted callers of the service. Every setting is marked where it is declared.

service/policy/rules.py defines the effect of each mark. The plain commands, run by the owner of the machine, ignore
them.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any, TypeVar


class Caller(Enum):
    """What a caller may do with a setting."""

    OPEN = "any value that the setting itself allows"
    LIMITED = "values up to the operator's limit"
    MODEL = "a model of the operator's list"
    SOURCES = "public https addresses and datasets of the hub"
    OPERATOR = "nothing: the default stays, unless the operator opens the setting"


Value = TypeVar("Value")
Open = Annotated[Value, Caller.OPEN]
Limited = Annotated[Value, Caller.LIMITED]
Model = Annotated[Value, Caller.MODEL]
Sources = Annotated[Value, Caller.SOURCES]
Operator = Annotated[Value, Caller.OPERATOR]


def mark_in(metadata: Iterable[Any]) -> Caller | None:
    """Return the mark in a field's metadata, None without one."""
    return next((entry for entry in metadata if isinstance(entry, Caller)), None)
