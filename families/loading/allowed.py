"""Which base models may be opened, where an operator keeps a list."""

import os
from fnmatch import fnmatchcase
from pathlib import Path

from families.errors import BaseModelError

VARIABLE = "ALLOWED_BASE_MODELS"


def require_allowed(name: str, text: str) -> None:
    """Raises BaseModelError when the operator's list (the environment variable) does not have this base.

    `name`: of the input that says `text`: a hub id, a name, or a path. A path is compared as it is after links and `..`
    are followed. Without the variable everything is allowed.
    """
    patterns = os.environ.get(VARIABLE, "").replace(",", " ").split()
    if not patterns:
        return
    path = Path(text).expanduser()
    is_path = path.exists() or text.startswith(("/", "~", "."))
    known_as = str(path.resolve()) if is_path else text
    if not any(fnmatchcase(known_as, pattern) for pattern in patterns):
        raise BaseModelError(
            f"{name}: {text!r} is not among the bases that the operator allows ({VARIABLE}): {', '.join(patterns)}"
        )
