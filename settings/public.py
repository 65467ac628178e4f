"""Settings as they may leave the machine: in metadata, reports, model cards and trackers. No path of its disk."""

import os
import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from settings.callers import Caller, mark_in
from settings.record import Settings

ABSOLUTE_PATH = re.compile(r"(?<![\w/:.])~?/(?:[^\s/'\"(),;:]+/)*([^\s/'\"(),;:]+)")


def public_settings(config: Settings, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """The settings as JSON has them, paths by their last part alone."""
    values = config.model_dump(mode="json", exclude_defaults=exclude_defaults)
    for name, field in type(config).model_fields.items():
        if values.get(name) is None:
            continue
        if holds_a_path(field.annotation):
            values[name] = Path(values[name]).name
        elif mark_in(field.metadata) is Caller.MODEL:
            values[name] = public_name(values[name])
    return values


def holds_a_path(annotation: object) -> bool:
    """Whether a setting's type is Path, or a union with Path."""
    return annotation is Path or (get_origin(annotation) in (Union, UnionType) and Path in get_args(annotation))


def public_name(model: str) -> str:
    """A hub id or the name of an embedded model as it is; of a folder or file on this disk the last part alone."""
    path = os.path.expanduser(model)
    on_disk = os.path.isabs(path) or model.startswith((".", "~")) or os.path.exists(path)
    return Path(os.path.abspath(path)).name if on_disk else model


def hide_paths(text: str) -> str:
    """The text with the last part alone of each absolute path in it, as the messages of libraries have them."""
    return ABSOLUTE_PATH.sub(r"\1", text)
