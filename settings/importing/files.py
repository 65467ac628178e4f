"""Reads a file of another trainer and detects its kind by its fields."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.importing.ai_toolkit import from_ai_toolkit, is_ai_toolkit
from settings.importing.cascade import from_cascade, is_cascade
from settings.importing.command_file import MOST_CHARACTERS, arguments_from
from settings.importing.diffusers_scripts import from_diffusers
from settings.importing.kohya import from_kohya, is_kohya
from settings.importing.translation import Imported
from settings.record import ConfigError, parse_settings
from settings.training import TrainingConfig

KNOWN = frozenset(TrainingConfig.model_fields)
TABLES = (".yaml", ".yml", ".json", ".toml")
ONETRAINER = {"training_method", "model_type", "base_model_name"}
"""Fields of all OneTrainer's files. Their sections repeat names, so they cannot be read as arguments by name."""


def read_import(config: Path | None, cascade: Path | None) -> Imported:
    """Translate the file of --import_config or --cascade_config; empty if neither is given. Raises ConfigError."""
    if config is not None and cascade is not None:
        raise ConfigError("import_config and cascade_config both name a file to translate; leave one of them out")
    if cascade is not None:
        return import_cascade(cascade)
    return Imported({}, None, (), {}) if config is None else import_settings(config)


def import_cascade(path: Path) -> Imported:
    """Translate a file of Stable Cascade's training guide. Raises ConfigError."""
    given = _read(path)
    if not is_cascade(given):
        raise ConfigError(
            f"cascade_config: {path} is not a file of the guide: it has no model_version or webdataset_path"
        )
    return _named(path, from_cascade(given, KNOWN))


def import_settings(path: Path) -> Imported:
    """Translate YAML or JSON of Stable Cascade's guide, of ai-toolkit, or with names of diffusers' scripts or kohya's;
    kohya's TOML; or a shell script with such a command. Raises ConfigError."""
    given = _read(path)
    if is_cascade(given):
        return _named(path, from_cascade(given, KNOWN))
    if given.keys() >= ONETRAINER:
        raise ConfigError(
            f"import_config: {path} is a file of OneTrainer, which is not translated; give its settings as options: "
            "the error on a name of OneTrainer suggests the name here"
        )
    if is_ai_toolkit(given):
        return _named(path, from_ai_toolkit(given, KNOWN))
    flat = _without_sections(given)
    return _named(path, from_kohya(flat, KNOWN) if is_kohya(flat) else from_diffusers(flat, KNOWN))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"import_config: cannot read {path}: {error}") from None
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        return arguments_from(text, str(path))
    if suffix != ".toml":
        return parse_settings(text, str(path))
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{path}: has {len(text):,} characters; the limit is {MOST_CHARACTERS:,}")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def _without_sections(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of all sections and of the top level, by name. Sections only group fields. A field that occurs
    in two sections must have the same value in both."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        inside = value if isinstance(value, dict) and name != "general" else {name: value}
        for field, each in inside.items():
            if flat.setdefault(field, each) != each:
                raise ConfigError(f"{field}: has different values in two sections; leave one of them out")
    return flat


def _named(path: Path, imported: Imported) -> Imported:
    """Add the file's name to every note."""
    notes = tuple(f"{path.name}: {note}" for note in imported.notes)
    return Imported(imported.values, imported.output, notes, imported.needed)
