"""The stored data of a set of images in addition to its dataset: preparation settings and sources."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from preprocess.errors import DatasetError

SETTINGS_FILE, SOURCES_FILE = "studio.yaml", "uploads.json"


def note_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Store the settings of the set in `folder`: those of the preset and of the page."""
    (folder / SETTINGS_FILE).write_text(yaml.safe_dump(dict(settings), allow_unicode=True), encoding="utf-8")


def noted_settings(folder: Path) -> dict[str, Any]:
    """Return the stored settings of the set in `folder`."""
    path = folder / SETTINGS_FILE
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return loaded


def note_sources(folder: Path, sources: Sequence[Path]) -> None:
    """Record the location of a set's sources in its folder, relative to it; crops are computed again from them."""
    names = [os.path.relpath(source, folder) for source in sources]
    (folder / SOURCES_FILE).write_text(json.dumps(names), encoding="utf-8")


def noted_sources(folder: Path) -> list[Path]:
    """Return the sources of the set in `folder`. Raises DatasetError if they are not stored."""
    file = folder / SOURCES_FILE
    if not file.is_file():
        raise DatasetError(f"{folder.name}: its uploaded files are not known; prepare the images again")
    return [folder / name for name in json.loads(file.read_text(encoding="utf-8"))]
