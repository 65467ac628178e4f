"""Parses prompt weights in A1111's syntax: "a photo of (TOK:1.2) in a (red:0.8) hat"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sampler.request import RequestError

MAX_WEIGHT = 2.0
MAX_CHARACTERS = 20_000
NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
SYNTAX = re.compile(rf"\\\((?P<literal>[^()\\]*:\s*{NUMBER}\s*)\\\)|\((?P<text>[^()]*):\s*(?P<weight>{NUMBER})\s*\)")
UNREAD = re.compile(rf":\s*([+-]?{NUMBER})\s*\)")


@dataclass(frozen=True)
class WeightedText:
    """A part of a prompt. `weight`: 1 has no effect, 0 removes the text, 2 doubles the distance to the empty prompt."""

    text: str
    weight: float = 1.0


def parse_weights(prompt: str, name: str = "prompt") -> list[WeightedText]:
    """Split the prompt into parts of equal weight, without blank parts. A prompt without weights is one part.

    `(words:1.2)` is the only syntax. Other parentheses are text, and so are ratios and times: after a digit, a whole
    number is not a weight ("(16:9)"). `\\(words:1.2\\)` stands for the text itself. Raises RequestError, naming the
    input `name`, for weights that are malformed or out of range.
    """
    if len(prompt) > MAX_CHARACTERS:
        raise RequestError(f"{name}: has {len(prompt):,} characters, more than {MAX_CHARACTERS:,}. Shorten it.")
    parts: list[WeightedText] = []
    end = 0
    for match in SYNTAX.finditer(prompt):
        if _is_ratio(match):
            continue
        parts.append(_plain(prompt, end, match.start(), name))
        literal = match["literal"]
        parts.append(WeightedText(f"({literal})") if literal is not None else _weighted(match, name))
        end = match.end()
    parts.append(_plain(prompt, end, len(prompt), name))
    return _joined(parts) or [WeightedText(prompt)]


def is_weighted(parts: Sequence[WeightedText]) -> bool:
    """Whether any part has a weight other than 1."""
    return any(part.weight != 1 for part in parts)


def _is_ratio(match: re.Match[str]) -> bool:
    return match["weight"] is not None and match["text"][-1:].isdigit() and match["weight"].isdigit()


def _weighted(match: re.Match[str], name: str) -> WeightedText:
    text, weight = match["text"], float(match["weight"])
    if not text.strip():
        raise RequestError(f"{name}: {match.group()} has a weight without words; write (words:1.2)")
    if weight > MAX_WEIGHT:
        raise RequestError(
            f"{name}: the weight in {match.group()[:60]} must be between 0 and {MAX_WEIGHT:g}. For the text itself "
            rf"write \({match.group()[1:-1][:60]}\)."
        )
    return WeightedText(text, weight)


def _plain(prompt: str, start: int, end: int, name: str) -> WeightedText:
    """Return the text between weights. Raises RequestError where it contains a malformed weight."""
    for match in UNREAD.finditer(prompt, start, end):
        before = prompt[: match.start()]
        if before.count("(") > before.count(")") and not (before[-1].isdigit() and match[1].isdigit()):
            raise RequestError(
                f"{name}: cannot parse the weight in “…{before[-40:]}{match.group()}”. Write (words:1.2) around words "
                f"without parentheses, with a weight from 0 to {MAX_WEIGHT:g}; weights cannot be nested."
            )
    return WeightedText(prompt[start:end])


def _joined(parts: Sequence[WeightedText]) -> list[WeightedText]:
    """Leave out blank parts, and merge neighbouring parts of equal weight, with the blanks between them."""
    joined: list[WeightedText] = []
    between = ""
    for part in parts:
        if not part.text.strip():
            between += part.text
            continue
        if joined and joined[-1].weight == part.weight:
            joined[-1] = WeightedText(joined[-1].text + between + part.text, part.weight)
        else:
            joined.append(part)
        between = ""
    return joined
