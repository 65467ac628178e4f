"""Presets: the settings files in `configs/`, by name."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.record import ConfigError, read_settings_file

FOLDER = Path(__file__).resolve().parents[1] / "configs"
LENGTHS = ("steps", "epochs")
"""Settings that give the length of a run."""


def preset_names() -> list[str]:
    """Return all names, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """Read the settings of a preset. Raises ConfigError for an unknown name."""
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"preset: {name!r} is unknown; {meant}")
    return read_settings_file(FOLDER / f"{name}.yaml")


def preset_beside(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the settings of a preset, with its checkpoint interval scaled to a `given` length in steps or epochs. Raises
    ConfigError for an unknown name."""
    values = read_preset(name)
    unit = next((unit for unit in LENGTHS if _count(given.get(f"max_train_{unit}"))), None)
    own = next((unit for unit in LENGTHS if f"max_train_{unit}" in values), None)
    if unit is None or own is None:
        return values
    length, interval = values.pop(f"max_train_{own}"), values.pop(f"checkpointing_{own}", None)
    if interval and not any(name.startswith("checkpointing_") for name in given):
        values[f"checkpointing_{unit}"] = max(1, _count(given[f"max_train_{unit}"]) * interval // length)
    return values


def _count(value: object) -> int:
    """Return a positive whole number, also one that is written as text; 0 for anything else."""
    return int(str(value)) if str(value).isdecimal() else 0


def preset_list() -> str:
    """Return a line for each preset: its name and its purpose, which is the file's first line."""
    width = max(map(len, preset_names()))
    return "\n".join(f"{name:{width}}  {preset_purpose(name)}" for name in preset_names())


def preset_purpose(name: str) -> str:
    """Return the first line of a preset's file. The name must be one of `preset_names`."""
    with (FOLDER / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
