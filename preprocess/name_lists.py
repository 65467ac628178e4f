"""Formats a list of names for a message of one line."""

from collections.abc import Sequence

SHOWN = 5


def first_names(names: Sequence[str], between: str = ", ") -> str:
    """Join the first five names, with "…" where there are more."""
    return between.join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
