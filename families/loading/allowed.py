"""Checks base models against the operator's list."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from families.errors import BaseModelError

VARIABLE = "ALLOWED_BASE_MODELS"


def require_allowed(name: str, text: str) -> None:
    """Raises BaseModelError when the operator's list (the environment variable) does not contain this base.

    `name`: the input with the value `text`: a hub id, a name, or a path. Without the variable everything is allowed.
    """
    patterns = patterns_in(os.environ.get(VARIABLE, ""))
    if patterns and not is_allowed(text, patterns):
        raise BaseModelError(
            f"{name}: {text!r} is not one of the base models that the operator allows ({VARIABLE}): "
            f"{', '.join(patterns)}"
        )


def patterns_in(text: str) -> tuple[str, ...]:
    """Split a list of names and patterns at commas or blanks."""
    return tuple(text.replace(",", " ").split())


def is_allowed(text: str, patterns: Sequence[str]) -> bool:
    """Whether a hub id, a name, or a path matches one of the patterns.

    Paths are compared after resolving links and `..`.
    """
    path = Path(os.path.expanduser(text))  # Path's own methods raise errors for unknown users and long names
    is_path = os.path.exists(path) or text.startswith(("/", "~", ".")) or ".." in path.parts
    known_as = str(path.resolve()) if is_path else text
    return any(fnmatchcase(known_as, pattern) for pattern in patterns)
