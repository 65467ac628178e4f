"""Combines equal warnings of many images into one line."""

import re
from collections.abc import Iterable, Sequence

from preprocess.name_lists import first_names

MOST_ALIKE = 3
"""Lines of one kind that are shown one by one."""
OF_ONE_IMAGE = re.compile(r"'[^']*'|\"[^\"]*\"|\S+\.\w{2,5}\b|\d+(?:[.,]\d+)*")
"""Texts, names of files and numbers: what differs between lines of one kind."""


def gathered(lines: Sequence[tuple[str, str]]) -> list[str]:
    """`lines`: names of images with what is said of them, which begins with the name.

    Up to three of a kind stay as they are; of more there is the first one, with the number and names of the others.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, line in lines:
        kinds.setdefault(OF_ONE_IMAGE.sub("·", line.removeprefix(f"{name}: ")), []).append((name, line))
    return [line for kind in kinds.values() for line in _shown(kind)]


def _shown(kind: Sequence[tuple[str, str]]) -> Iterable[str]:
    if len(kind) <= MOST_ALIKE:
        return [line for _, line in kind]
    others = [name for name, _ in kind[1:]]
    return [f"{kind[0][1]}; likewise {len(others)} others: {first_names(others)}"]
