"""Settings as typed records: read from YAML, JSON and the command line, validated, with one-line errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from settings.field_types import field_type, nested_record
from settings.other_names import NO_SECTIONS
from settings.unknown_names import advice
from settings.yaml_text import load_yaml

BOOLEANS = {
    False: (False, "false", "no", "off"),
    True: (True, "true", "yes", "on"),
}
"""Spellings of true and false."""
MEANINGS = {
    False: ("no", "off", "false", "never", "none"),
    True: ("yes", "on", "true", "always"),
}
"""Choices that a boolean may mean."""


LONGEST_TEXT = 4000
"""Largest number of characters of a setting without a limit of its own."""
MOST_PROBLEMS = 50
"""Largest number of reported problems: a list of thousands of wrong values has as many."""
MOST_UNKNOWN = 20
"""Largest number of unknown names that are reported with advice on each. A file of another command has more."""
SOME_NAMES = 5
"""Number of names that are shown of more unknown ones."""
LONGEST_SHOWN = 200
"""Largest number of characters of a wrong name or value in messages."""


class ConfigError(ValueError):
    """A setting that is unknown, out of range or contradictory. The message names the remedy."""


class Settings(BaseModel):
    """A frozen record of settings. Unknown names, non-finite numbers and texts that are too long are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, str_max_length=LONGEST_TEXT
    )

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_choices(cls, values: Any) -> Any:
        """Convert booleans to choices: `mixed_precision: no` is false in YAML 1.1 and in JSON; `gradient_checkpointing:
        true` means always."""
        if not isinstance(values, dict):
            return values
        meant = {name: _meant(cls, name, value) for name, value in values.items() if isinstance(value, bool | str)}
        return {**values, **meant}

    def differs(self, name: str) -> bool:
        """Whether a setting has another value than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


Record = TypeVar("Record", bound=Settings)


def build_settings(record: type[Record], values: Mapping[str, Any]) -> Record:
    """Validate `values` and fill in the defaults.

    Raises ConfigError with one line for every wrong setting, naming the nearest name for an unknown one.
    """
    try:
        return record(**values)
    except ValidationError as error:
        unknown, others = _apart(error.errors())
        lines = [_count_of(unknown)] if len(unknown) > MOST_UNKNOWN else []
        problems = _first_causes((others if lines else [*unknown, *others])[:MOST_PROBLEMS])
        raise ConfigError("\n".join([*lines, *(_explain(record, problem) for problem in problems)])) from None


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """Parse a YAML or JSON text into settings. `source` names the text in messages.

    Raises ConfigError when it is not YAML, or not a mapping of names to values.
    """
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: cannot be read as YAML or JSON: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{source}: must be a mapping such as 'max_train_steps: 500', one setting a line")
    return values


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read settings from a YAML or JSON file. Raises ConfigError when it cannot be read."""
    try:
        return parse_settings(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from None


def _meant(record: type[Settings], name: str, value: bool | str) -> bool | str:
    """Return the choice that a boolean stands for, else `value` itself."""
    field = record.model_fields.get(name)
    choices = field_type(field.annotation).choices if field else ()
    if not choices or value in choices:
        return value
    written = value.lower() if isinstance(value, str) else value
    for truth, texts in BOOLEANS.items():
        if written in texts:
            return next((choice for choice in MEANINGS[truth] if choice in choices), value)
    return value


def _apart(problems: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the problems with unknown names at the top level, and the others."""
    parts: tuple[list[Any], list[Any]] = [], []
    for problem in problems:
        parts[not (problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1)].append(problem)
    return parts


def _count_of(unknown: Sequence[Any]) -> str:
    names = ", ".join(str(problem["loc"][0])[:LONGEST_SHOWN] for problem in unknown[:SOME_NAMES])
    return (
        f"{len(unknown)} settings are unknown here: {names} …; leave them out. Files of other trainers are translated "
        "by train.py --import_config"
    )


def _first_causes(problems: Sequence[Any]) -> list[Any]:
    """Remove problems of a list or record whose parts have problems of their own."""
    places = [tuple(problem["loc"]) for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if not any(len(other) > len(place) > 0 and other[: len(place)] == place for other in places)
    ]


def _explain(record: type[Settings], problem: Any) -> str:
    """Return one line on a problem that pydantic reports."""
    location: Sequence[str | int] = problem["loc"]
    name, given = ".".join(str(part) for part in location)[:LONGEST_SHOWN], problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown setting; {_advice_on(record, location, given)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "tuple_type":
        message = "must be a list, such as [a, b]"
    elif problem["type"] in ("model_type", "dict_type"):
        message = "must be a mapping, such as {name: value}"
    elif problem["type"] == "string_type" and not isinstance(given, list | dict):
        message = "must be text; put it in quotes"
    elif len(location) > 1 and isinstance(given, str) and "," in given and problem["type"].endswith("_parsing"):
        message = "must be a single value, without spaces on the command line and without [ ] in YAML"
    return f"{name}: {message} (given: {_shown(given)})" if name else message


def _advice_on(record: type[Settings], location: Sequence[str | int], given: Any) -> str:
    for part in location[:-1]:
        field = record.model_fields.get(str(part))
        record = (nested_record(field.annotation) if field else None) or record
    name = str(location[-1])
    if isinstance(given, dict):
        return NO_SECTIONS
    return advice(name, record.model_fields) or "see --help_all"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python cannot format a number of more than 4,300 digits
        return "a number with thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
