"""Makes command line options of a settings record: one for every field, grouped by its sections."""

import argparse
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from settings.command_line.parser import CommandParser
from settings.field_types import FieldType, default_text, field_type, value_range
from settings.record import Settings
from settings.yaml_text import load_yaml

NULL = "null"
MAIN_NOTE = (
    "An option overrides the same setting in --config; null unsets it. Spaces separate the values of a list: "
    '--filters "width > 512" "height > 512".'
)


@dataclass(frozen=True)
class Section:
    """The fields that one class of the record declares. `summary`: the first line of its docstring."""

    title: str
    summary: str
    names: tuple[str, ...]


def sections(record: type[Settings]) -> Iterator[Section]:
    """Yield the classes that a record is composed of, in the order of its fields."""
    for part in reversed(record.__mro__):
        names = tuple(name for name in inspect.get_annotations(part) if name in record.model_fields)
        if names and issubclass(part, Settings):
            words = re.findall(r"[A-Z][a-z]*", part.__name__.removesuffix("Section").removesuffix("Config"))
            yield Section(" ".join(words).lower(), (part.__doc__ or "").partition("\n")[0], names)


def add_options(parser: CommandParser, record: type[Settings], main: Sequence[str]) -> None:
    """Add an option for every field under its own name. Options that are not given are absent from the namespace.

    `main`: the fields that --help shows, in this order. --help_all shows the others in their sections.
    """
    first = parser.add_argument_group("main settings", MAIN_NOTE)
    for name in main:
        _add_option(first, name, record.model_fields[name])
    folded = 0
    parts = list(sections(record))
    for section in parts:
        group = parser.add_argument_group(section.title, section.summary)
        others = [name for name in section.names if name not in main]
        parser.fold(group, [_add_option(group, name, record.model_fields[name]) for name in others])
        folded += len(others)
    titles = ", ".join(section.title for section in parts)
    parser.epilog = f"{folded} more settings with --help_all: {titles}. docs/settings.md lists all of them."


def add_few_options(parser: CommandParser, record: type[Settings], aliases: Mapping[str, str]) -> None:
    """As `add_options`, for a record of few fields: --help shows all. `aliases`: second names, by field."""
    for section in sections(record):
        group = parser.add_argument_group(section.title, section.summary)
        for name in section.names:
            _add_option(group, name, record.model_fields[name], aliases.get(name))


def given_options(arguments: argparse.Namespace, record: type[Settings]) -> dict[str, Any]:
    """Return the given options by field.

    Values are not validated here but by `build_settings`.
    """
    fields = record.model_fields
    given = {name: value for name, value in vars(arguments).items() if name in fields}
    return {name: _value(value, field_type(fields[name].annotation)) for name, value in given.items()}


def _add_option(
    group: argparse._ArgumentGroup, name: str, field: FieldInfo, alias: str | None = None
) -> argparse.Action:
    kind = field_type(field.annotation)
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": kind.word, "help": _help(field)}
    if kind.is_list:
        options |= {"nargs": "+", "action": "extend"}
    elif kind.is_switch:
        options |= {"nargs": "?", "const": "true"}
    flags = [f"--{flag}" for flag in (alias, name) if flag]
    return group.add_argument(*flags, dest=name, **options)


def _help(field: FieldInfo) -> str:
    default = default_text(field)
    notes = [value_range(field), f"default: {default}" if default else ""]
    note = "; ".join(filter(None, notes))
    return f"{field.description} ({note})".replace("%", "%%") if note else f"{field.description}".replace("%", "%%")


def _value(given: str | list[str], kind: FieldType) -> Any:
    if given in (NULL, [NULL]):
        return None
    if isinstance(given, str):
        return _read(given) if kind.is_nested else given
    values: list[Any] = []
    for text in given:
        value = _read(text) if kind.is_nested or text.startswith("[") else text
        values.extend(value if isinstance(value, list) else [value if kind.is_nested else text])
    return values


def _read(text: str) -> Any:
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text
