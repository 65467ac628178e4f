"""Expands alternatives in captions, `{red|blue} robot`, as written for kohya and for dynamic prompts."""

import random
import re
from collections.abc import Iterator
from itertools import islice, product

MOST_CAPTIONS = 64
"""Largest number of captions from one with alternatives. Above it, this many different ones are drawn at random."""
MOST_NESTED = 20
"""Largest number of braces that may enclose an alternative."""
INNERMOST = re.compile(r"\{[^{}|]*\|[^{}]*\}")
WEIGHT = re.compile(r"\s*\d+(?:\.\d+)?::")
COUNT = re.compile(r"\s*\d+(?:-\d+)?\$\$(?:[^$|{}]*\$\$)?")
"""The number of alternatives, and the text between them."""


def has_wildcard(text: str) -> bool:
    """Whether the caption contains alternatives."""
    return INNERMOST.search(text) is not None


def nesting(text: str) -> int:
    """Return the largest number of braces that enclose a place of the caption."""
    depth = most = 0
    for sign in text:
        depth = max(0, depth + {"{": 1, "}": -1}.get(sign, 0))
        most = max(most, depth)
    return most


def count_captions(text: str) -> int:
    """Return the number of combinations of alternatives, including duplicates."""
    total = 1
    for part in _parts(text):
        total *= len(part)
    return total


def expanded(text: str) -> tuple[str, ...]:
    """Return every combination of the alternatives, in order, or MOST_CAPTIONS random ones. Equal texts give equal
    results.

    Alternatives may be nested, at most MOST_NESTED deep (`nesting`). Weights ("2::red") and counts ("2$$a|b") of
    dynamic prompts are ignored.
    """
    parts = _parts(text)
    if count_captions(text) <= MOST_CAPTIONS:
        made: Iterator[tuple[str, ...]] = product(*parts)
    else:
        draws = random.Random(text)
        made = islice((tuple(draws.choice(part) for part in parts) for _ in iter(int, 1)), 50 * MOST_CAPTIONS)
    captions: dict[str, None] = {}
    for words in made:
        if caption := _tidied("".join(words)):
            captions[caption] = None
        if len(captions) == MOST_CAPTIONS:
            break
    return tuple(captions)


def _parts(text: str) -> list[list[str]]:
    """Split the caption into lists of alternatives. Plain text is a list of one."""
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
    """Yield plain text and whole {…} in turn. An unclosed brace is plain text."""
    closings = _closings(text)
    start = 0
    for opened in sorted(closings):
        if opened >= start:
            yield text[start:opened]
            start = closings[opened] + 1
            yield text[opened:start]
    yield text[start:]


def _closings(text: str) -> dict[int, int]:
    """Return the place of the closing brace of each brace that has one."""
    unclosed: list[int] = []
    closings: dict[int, int] = {}
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            unclosed.append(match.start())
        elif unclosed:
            closings[unclosed.pop()] = match.start()
    return closings


def _split(inner: str) -> list[str]:
    """Split at the bars that are not nested in further braces."""
    options, depth = [""], 0
    for sign in inner:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "|" and depth == 0:
            options.append("")
        else:
            options[-1] += sign
    return options


def _tidied(text: str) -> str:
    """Collapse the spaces and commas that an empty alternative leaves."""
    return re.sub(r"(?:,\s*){2,}", ", ", re.sub(r"\s+", " ", text)).strip(" ,")
