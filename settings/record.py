"""Settings as typed records: read from YAML, JSON and the command line, checked at once, explained in one line each."""

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A setting that is unknown, out of range or contradictory. The text names the remedy."""


class Settings(BaseModel):
    """A frozen record of settings. Unknown names and non-finite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Record = TypeVar("Record", bound=Settings)


def build_settings(record: type[Record], values: Mapping[str, Any]) -> Record:
    """Check `values` and fill in the defaults.

    Raises ConfigError with one line for every wrong setting, naming the nearest name for an unknown one.
    """
    try:
        return record(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(record, problem) for problem in error.errors())) from None


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """The settings in a YAML or JSON text. `source` names the text in messages.

    Raises ConfigError when it is not YAML, or not a mapping of names to values.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: cannot be read as YAML or JSON: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{source}: must be a mapping such as 'max_train_steps: 500', one setting a line")
    return values


def read_settings_file(path: Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file. Raises ConfigError when it cannot be read."""
    try:
        return parse_settings(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from None


def add_options(parser: argparse.ArgumentParser, record: type[Settings]) -> None:
    """One option for every field of the record, under its own name; what is not given stays absent."""
    group = parser.add_argument_group("settings (they win over the config file; null unsets one)")
    for name, field in record.model_fields.items():
        default = "none" if field.default in (None, ()) else field.default
        text = f"{field.description} (default: {default})".replace("%", "%%")
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="VALUE", help=text)


def given_options(arguments: argparse.Namespace, record: type[Settings]) -> dict[str, Any]:
    """The options that were given. Lists and mappings are written as YAML: `--filters '[width > 512]'`."""
    given = {name: value for name, value in vars(arguments).items() if name in record.model_fields}
    return {name: _value(value) for name, value in given.items()}


def _value(text: str) -> Any:
    if text == "null":
        return None
    if text[:1] in "[{":
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return text


def _explain(record: type[Settings], problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, record.model_fields, n=1)
        return f"{name}: unknown setting" + (f"; did you mean {near[0]}?" if near else "; see --help")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "tuple_type":
        message = "must be a list, such as [a, b]"
    given = f" (given: {problem['input']!r})" if name else ""
    return f"{name}: {message}{given}" if name else message
