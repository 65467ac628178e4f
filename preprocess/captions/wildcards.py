"""`{red|blue} robot`: alternatives in a caption, as kohya and the dynamic prompts of user interfaces write them."""

import random
import re
from collections.abc import Iterator
from itertools import islice, product

MOST_CAPTIONS = 64
"""Of one caption's alternatives. Beyond, so many different ones are drawn."""
INNERMOST = re.compile(r"\{([^{}]*\|[^{}]*)\}")
WEIGHT = re.compile(r"\s*\d+(?:\.\d+)?::")
COUNT = re.compile(r"\s*\d+(?:-\d+)?\$\$")


def has_wildcard(text: str) -> bool:
    """Whether the caption holds alternatives."""
    return INNERMOST.search(text) is not None


def count_captions(text: str) -> int:
    """How many captions the alternatives make, repeated ones counted."""
    total = 1
    for part in _parts(text):
        total *= len(part)
    return total


def expanded(text: str) -> tuple[str, ...]:
    """Every caption that the alternatives make, in order, or MOST_CAPTIONS of them; the same text gives the same.

    Alternatives may lie in each other. Weights ("2::red") and counts ("2$$a|b") of dynamic prompts are left out.
    """
    parts = _parts(text)
    if count_captions(text) <= MOST_CAPTIONS:
        made: Iterator[tuple[str, ...]] = product(*parts)
    else:
        draws = random.Random(text)
        made = islice((tuple(draws.choice(part) for part in parts) for _ in iter(int, 1)), 50 * MOST_CAPTIONS)
    captions = dict.fromkeys(_tidied("".join(words)) for words in made)
    return tuple(islice((caption for caption in captions if caption), MOST_CAPTIONS))


def _parts(text: str) -> list[list[str]]:
    """The caption as a row of alternatives; plain text is a part of one."""
    parts: list[list[str]] = []
    for piece in _pieces(text):
        if piece.startswith("{") and piece.endswith("}") and "|" in piece:
            inner = COUNT.sub("", piece[1:-1], count=1)
            options = [WEIGHT.sub("", option, count=1) for option in _split(inner)]
            parts.append([made for option in options for made in _all_of(option)])
        else:
            parts.append([piece])
    return parts


def _all_of(option: str) -> list[str]:
    return ["".join(words) for words in islice(product(*_parts(option)), MOST_CAPTIONS)]


def _pieces(text: str) -> Iterator[str]:
    """Plain text and whole {…}, in turn. A bracket that is never closed is plain text."""
    start = 0
    while (opened := text.find("{", start)) >= 0:
        closed = _closing(text, opened)
        if closed is None:
            break
        yield text[start:opened]
        yield text[opened : closed + 1]
        start = closed + 1
    yield text[start:]


def _closing(text: str, opened: int) -> int | None:
    depth = 0
    for index in range(opened, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return None


def _split(inner: str) -> list[str]:
    """At the bars that lie in no further brackets."""
    options, depth = [""], 0
    for sign in inner:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "|" and depth == 0:
            options.append("")
        else:
            options[-1] += sign
    return options


def _tidied(text: str) -> str:
    """An empty alternative leaves two spaces behind, or two commas."""
    return re.sub(r"(?:,\s*){2,}", ", ", re.sub(r"\s+", " ", text)).strip(" ,")
