"""Combines equal warnings of many images into one line."""

import re
from collections.abc import Iterable, Sequence

from preprocess.name_lists import first_names

MOST_ALIKE = 3
"""Largest number of lines of one kind that are shown separately."""
OF_ONE_IMAGE = re.compile(r"'[^']*'|\"[^\"]*\"|\S+\.\w{2,5}\b|\d+(?:[.,]\d+)*")
"""Quoted texts, file names and numbers, which may differ between lines of one kind."""


def gathered(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Combine lines of one kind. `lines`: names of images with their warnings, which begin with the name.

    Up to three lines of a kind are unchanged. Of more, the first is kept, with the number and names of the others.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, line in lines:
        kinds.setdefault(OF_ONE_IMAGE.sub("·", line.removeprefix(f"{name}: ")), []).append((name, line))
    return [line for kind in kinds.values() for line in _shown(kind)]


def _shown(kind: Sequence[tuple[str, str]]) -> Iterable[str]:
    if len(kind) <= MOST_ALIKE:
        return [line for _, line in kind]
    others = [name for name, _ in kind[1:]]
    return [f"{kind[0][1]}; the same for {len(others)} others: {first_names(others)}"]
