"""Settings for publication in metadata, reports, model cards and trackers, without paths of this machine."""

import os
import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin
from urllib.parse import urlsplit

from settings.callers import Caller, mark_in
from settings.record import Settings

ABSOLUTE_PATH = re.compile(r"(?<![\w/:.])~?/(?:[^\s/'\"(),;:]+/)*([^\s/'\"(),;:]+)")


def public_settings(config: Settings, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """Return the settings as JSON values, with paths reduced to their last part."""
    values = config.model_dump(mode="json", exclude_defaults=exclude_defaults)
    for name, field in type(config).model_fields.items():
        if values.get(name) is None:
            continue
        if holds_a_path(field.annotation):
            values[name] = Path(values[name]).name
        elif mark_in(field.metadata) is Caller.MODEL:
            values[name] = public_name(values[name])
        elif mark_in(field.metadata) is Caller.SOURCES:
            values[name] = [each | {"source": public_source(each["source"])} for each in values[name]]
    return values


def public_source(source: str) -> str:
    """A dataset of the hub unchanged, an address without user name, password and query, of a path only the last
    part."""
    if "://" not in source:
        return Path(source).name
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2] if parts.scheme != 'hf' else parts.netloc}{parts.path}"


def holds_a_path(annotation: object) -> bool:
    """Whether a setting's type is Path, or a union with Path."""
    return annotation is Path or (get_origin(annotation) in (Union, UnionType) and Path in get_args(annotation))


def public_name(model: str) -> str:
    """Return a hub id or the name of an embedded model unchanged, and a local path reduced to its last part."""
    path = os.path.expanduser(model)
    on_disk = os.path.isabs(path) or model.startswith((".", "~")) or os.path.exists(path)
    return Path(os.path.abspath(path)).name if on_disk else model


def hide_paths(text: str) -> str:
    """Reduce each absolute path in the text to its last part, as in messages of libraries."""
    return ABSOLUTE_PATH.sub(r"\1", text)
