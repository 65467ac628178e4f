"""Translates an imported configuration, field by field."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings.record import BOOLEANS, ConfigError
from settings.unknown_names import advice

INTERVALS = (
    ("checkpointing_steps", "max_train_steps"),
    ("checkpointing_epochs", "max_train_epochs"),
    ("sample_steps", "max_train_steps"),
)
"""Intervals, each with the length of the run in the same unit."""


@dataclass(frozen=True)
class Imported:
    """`values`: settings. `notes`: a line for each field that is left out or has another meaning here. `needed`:
    settings that the file does not determine and the user must set, with the reason."""

    values: Mapping[str, Any]
    output: Path | None
    notes: tuple[str, ...]
    needed: Mapping[str, str]


class Translation:
    """A configuration that is being translated. Translated fields are removed from it."""

    def __init__(self, given: Mapping[str, Any], known: frozenset[str]) -> None:
        """`given`: the fields; those without a value count as absent. `known`: the names of our settings."""
        self._left = {_plain(name): value for name, value in given.items() if value is not None and value != ""}
        self._known = known
        self.values: dict[str, Any] = {}
        self.needed: dict[str, str] = {}
        self.sources: list[str] = []
        self.output: Path | None = None
        self._notes: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._left

    @property
    def names(self) -> frozenset[str]:
        """The names of the remaining fields."""
        return frozenset(self._left)

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, and remove the field."""
        return self._left.pop(name, default)

    def peek(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, and keep the field."""
        return self._left.get(name, default)

    def take_switch(self, name: str) -> bool:
        """As `take`, for a field that is true or false. Raises ConfigError for anything else."""
        return switched(name, self.take(name, False))

    def take_number(self, name: str, default: float | None = None) -> float | None:
        """As `take`, for a number. Raises ConfigError for anything else."""
        value = self.take(name)
        return default if value is None else number(name, value)

    def note(self, name: str, why: str) -> None:
        """Add a note on the translation of a field."""
        self._notes.append(f"{name}: {why}")

    def apply(self, rules: Mapping[str, "Rule"]) -> None:
        """Translate all remaining fields by their rules. A field without a rule is noted as left out."""
        for name, value in list(self._left.items()):
            if name in rules:
                rules[name](self, name, value)
            elif name in self._known:
                self.values[name] = value  # already the name of a setting here
            else:
                hint = advice(name, self._known)
                self.note(name, f"has no equivalent and is left out{f'; {hint}' if hint else ''}")
        self._left.clear()

    def imported(self, defaults: Mapping[str, Any]) -> Imported:
        """Return the result. `defaults`: the other trainer's defaults that differ from the defaults here."""
        values = {**defaults, **self.values}
        for interval, length in INTERVALS:
            every, end = values.get(interval), values.get(length)
            if every is not None and end is not None and number(interval, every) > number(length, end):
                self.note(interval, f"{every} is left out: it exceeds {length} ({end})")
                del values[interval]
                if interval != "sample_steps":
                    values.pop("keep_checkpoints", None)
        if self.sources:
            values["sources"] = self.sources
        return Imported(values, self.output, tuple(self._notes), self.needed)


Rule = Callable[[Translation, str, Any], None]
"""Translates one field; called with its name and value."""


def same(setting: str) -> Rule:
    """The field has the same meaning as the setting."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        translation.values[setting] = value

    return rule


def switch(setting: str, value: Any) -> Rule:
    """True sets the setting to this value; false keeps the default."""

    def rule(translation: Translation, name: str, given: Any) -> None:
        if switched(name, given):
            translation.values[setting] = value

    return rule


def choice(setting: str, values: Mapping[str, Any]) -> Rule:
    """Maps the field's values, in lower case, to values of the setting. Other values are an error that lists these."""

    def rule(translation: Translation, name: str, given: Any) -> None:
        word = str(given).lower()
        if word not in values:
            raise ConfigError(f"{name}: {given} has no equivalent; supported are {', '.join(values)}; leave it out")
        translation.values[setting] = values[word]

    return rule


def left_out(why: str) -> Rule:
    """The field has no equivalent, for this reason."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        translation.note(name, f"is left out: {why}")

    return rule


def usual(values: tuple[Any, ...], why: str) -> Rule:
    """A field whose usual values match the behaviour here; other values are left out for the reason `why`."""

    def rule(translation: Translation, name: str, value: Any) -> None:
        if str(value).lower() not in [str(each).lower() for each in values]:
            translation.note(name, f"{value} is left out: {why}")

    return rule


def place(translation: Translation, name: str, value: Any) -> None:
    """A field with a folder, file or URL of training data, or a list of them."""
    translation.sources += [str(each) for each in (value if isinstance(value, list) else [value])]


def switched(name: str, value: Any) -> bool:
    """Return whether a field is true. Raises ConfigError for a value that is neither true nor false."""
    written = value.lower() if isinstance(value, str) else value
    if isinstance(written, list | dict):
        raise ConfigError(f"{name}: {value!r} is neither true nor false")
    for truth, texts in BOOLEANS.items():
        if written in texts:
            return truth
    if written in ("0", "1", 0, 1):
        return bool(int(written))
    raise ConfigError(f"{name}: {value!r} is neither true nor false")


def number(name: str, value: Any) -> float:
    """Return a field's number. Raises ConfigError for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise ConfigError(f"{name}: {value!r} is not a number")
    return found


def whole(value: float) -> int | float:
    """Return an int if the number is whole."""
    return int(value) if value == int(value) else value


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
