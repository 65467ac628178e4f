"""The type of a field: from its annotation to its description in help and its parsing on the command line."""

import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo

WORDS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{true,false}"}
NESTED = "YAML"


@dataclass(frozen=True)
class FieldType:
    """The type of a field. `word`: the description of one value in help. `choices`: the texts of a Literal, else ()."""

    word: str
    choices: tuple[str, ...] = ()
    is_list: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether the value is a boolean."""
        return self.word == WORDS[bool] and not self.is_list

    @property
    def is_nested(self) -> bool:
        """Whether a value is a record or mapping."""
        return self.word == NESTED


def field_type(annotation: Any) -> FieldType:
    """Return the type of an annotation. None in a union is ignored: a setting is unset by null. One value or a list of
    them is written as one text."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return field_type(arguments[0])
    if origin in (types.UnionType, typing.Union):
        kinds = [field_type(argument) for argument in arguments if argument is not type(None)]
        return kinds[0] if len(kinds) > 1 and kinds[1].is_list else kinds[-1]
    if origin is Literal:
        choices = tuple(str(choice) for choice in arguments)
        return FieldType("{" + ",".join(choices) + "}", choices)
    if origin in (tuple, list):
        entry = field_type(arguments[0])
        return FieldType(entry.word, entry.choices, is_list=True)
    return FieldType(WORDS.get(annotation, NESTED))


def nested_record(annotation: Any) -> type | None:
    """Return the record class inside a list, mapping or union; None without one."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := nested_record(part))), None)


def bounds_of(field: FieldInfo) -> dict[str, float]:
    """Return the bounds of a number, or of one of several, by pydantic's names: ge, gt, le, lt."""
    return {
        key: getattr(entry, key)
        for entry in (*field.metadata, *_metadata(field.annotation))
        for key in ("ge", "gt", "le", "lt")
        if getattr(entry, key, None) is not None
    }


def _metadata(annotation: Any) -> tuple[Any, ...]:
    """Return the metadata of all parts of a union."""
    if typing.get_origin(annotation) is Annotated:
        return tuple(each for entry in annotation.__metadata__ for each in getattr(entry, "metadata", (entry,)))
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in (types.UnionType, typing.Union) else ()
    return tuple(entry for part in parts for entry in _metadata(part))


def value_range(field: FieldInfo) -> str:
    """Return the bounds of a number, as in "1 to 1024" or "above 0, at most 10"; "" without bounds."""
    bounds = bounds_of(field)
    if bounds.keys() == {"ge", "le"}:
        return f"{_number(bounds['ge'])} to {_number(bounds['le'])}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{words[key]} {_number(value)}" for key, value in bounds.items())


def default_text(field: FieldInfo) -> str:
    """Return the default as written on a command line; "" without one."""
    default = field.get_default(call_default_factory=False)
    if field.is_required() or default in (None, "", ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return " ".join(f"{value}" for value in default)
    return _number(default) if isinstance(default, float) else str(default)


def _number(value: float) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"2^{value.bit_length() - 1}" if value in (2**63, 2**64) else f"{value:,}"
