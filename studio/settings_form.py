"""Input fields made from TrainingConfig: description, range and default from its declaration."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from settings.command_line.options import Section, given_options, sections
from settings.field_types import default_text, field_type, value_range
from settings.preparation import DataConfig
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config

DEFAULT = ""
"""The choice of a list that does not set the setting."""
MIN_WIDTH = 240
"""Minimum width of a field in pixels: one per row on a phone."""
FIRST_NAME = re.compile(r"\w+")
Component = Any
"""A gr.Textbox or gr.Dropdown."""


@dataclass(frozen=True)
class Form:
    """Fields by the names of their settings."""

    fields: Mapping[str, Component]

    @property
    def names(self) -> list[str]:
        return list(self.fields)

    @property
    def components(self) -> list[Component]:
        return list(self.fields.values())

    @property
    def changes(self) -> list[Any]:
        """The events of a changed field: it loses focus, or a value is selected."""
        return [each.blur if isinstance(each, gr.Textbox) else each.input for each in self.components]

    def given(self, texts: Sequence[str | None]) -> dict[str, Any]:
        """Return the settings that are filled in, parsed as on the command line but not yet checked."""
        return parse(dict(zip(self.names, texts, strict=True)))


def parse(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """Parse texts by setting; empty ones are not set. Values of a list are one per line."""
    given = {name: text.strip() for name, text in texts.items() if text is not None and text.strip()}
    fields = TrainingConfig.model_fields
    lists = {name for name in given if field_type(fields[name].annotation).is_list}
    words = {name: text.splitlines() if name in lists else text for name, text in given.items()}
    return given_options(argparse.Namespace(**words), TrainingConfig)


def problems(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the error messages by the setting that they begin with; "" for those that begin with none."""
    try:
        build_config(values)
    except ConfigError as error:
        found: dict[str, str] = {}
        for line in str(error).splitlines():
            name = FIRST_NAME.match(line)
            found.setdefault(name[0] if name and name[0] in TrainingConfig.model_fields else "", line)
        return found
    return {}


def field_text(value: Any) -> str:
    """Return the text of a setting's field for a value of a settings file."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(map(field_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def make_form(names: Sequence[str]) -> Form:
    """Create the fields at the current position of the page."""
    return Form({name: _field(name) for name in names})


def sections_of(names: Sequence[str]) -> list[Section]:
    """Return the sections of the settings, with those of `names` only."""
    chosen = set(names)
    found = [
        Section(each.title, each.summary, tuple(name for name in each.names if name in chosen))
        for each in sections(TrainingConfig)
    ]
    return [each for each in found if each.names]


def of_preparation(name: str) -> bool:
    """Whether a setting is one of data preparation."""
    return name in DataConfig.model_fields


def _field(name: str) -> Component:
    field = TrainingConfig.model_fields[name]
    kind = field_type(field.annotation)
    bounds, default = value_range(field), default_text(field)
    info = f"{field.description} ({bounds})" if bounds else str(field.description)
    elem_id = f"setting-{name}"
    if (kind.choices or kind.is_switch) and not kind.is_list:
        shown = f"default: {default}" if default else "default"
        choices = list(kind.choices) if kind.choices else ["true", "false"]
        return gr.Dropdown(
            [(shown, DEFAULT), *choices], value=DEFAULT, label=name, info=info, elem_id=elem_id, min_width=MIN_WIDTH
        )
    return gr.Textbox(
        label=name,
        info=f"{info}; one per line" if kind.is_list else info,
        placeholder=default,
        lines=2 if kind.is_list else 1,
        elem_id=elem_id,
        min_width=MIN_WIDTH,
    )
