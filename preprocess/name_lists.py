"""Shows a list of names in a message of one line."""

from collections.abc import Sequence

SHOWN = 5


def first_names(names: Sequence[str], between: str = ", ") -> str:
    """The first five names, and a mark where there are more."""
    return between.join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
