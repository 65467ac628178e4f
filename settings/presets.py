"""Presets: the settings files in `configs/`, by name."""

import difflib
from pathlib import Path
from typing import Any

from settings.record import ConfigError, read_settings_file

FOLDER = Path(__file__).resolve().parents[1] / "configs"


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


def preset_list() -> str:
    """Return a line for each preset: its name and its purpose, which is the file's first line."""
    width = max(map(len, preset_names()))
    return "\n".join(f"{name:{width}}  {preset_purpose(name)}" for name in preset_names())


def preset_purpose(name: str) -> str:
    """Return the first line of a preset's file. The name must be one of `preset_names`."""
    with (FOLDER / f"{name}.yaml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
