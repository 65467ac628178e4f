"""Detects syntax of other trainers and user interfaces in captions, where it is plain text here."""

import re
from collections.abc import Iterator, Mapping, Sequence

from preprocess.name_lists import first_names

NUMBER = r"\d{0,9}\.?\d{1,9}"
"""Limited, as all of the following: a search in a caption of many digits would take hours."""
MARKS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "|||": (re.compile(r"\|\|\|"), "kohya's end of the tags that are kept in front; use keep_first_tags"),
    "(word:1.2)": (
        re.compile(rf"[(\[][^()\[\]:]+:\s?[+-]?{NUMBER}\s?[)\]]"),
        "the weight of a word in user interfaces; remove the brackets and the number",
    ),
    "((word))": (re.compile(r"\(\([^()]+\)\)"), "the emphasis of a word in user interfaces; remove the brackets"),
    "<lora:…>": (
        re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE),
        "a LoRA that a user interface loads; remove it",
    ),
    "BREAK": (re.compile(r"\bBREAK\b"), "the start of a new chunk in user interfaces; use a comma"),
    "__name__": (re.compile(r"(?<!\w)__[\w/*-]{1,100}__(?!\w)"), "a wildcard file of dynamic prompts; write {a|b}"),
    "embedding:name": (re.compile(r"\bembedding:\S+", re.IGNORECASE), "an embedding that ComfyUI loads; remove it"),
    r"\(": (re.compile(r"\\[()]"), "an escaped bracket in user interfaces; write a plain bracket"),
    "--option": (
        re.compile(r"(?:^|\s)--(?:ar|v|s|q|no|seed|niji|stylize|style|chaos)\s+\S"),
        "an option of Midjourney; remove it",
    ),
    "[from:to:when]": (
        re.compile(rf"\[[^\[\]:]*:[^\[\]:]*:\s?{NUMBER}\]"),
        "a prompt that changes during sampling; write one of the two",
    ),
    "one brace of {a|b}": (
        re.compile(r"\{[^{}|]*\||\|[^{}|]*\}"),
        "part of alternatives; add the other brace",
    ),
}


def syntax_warnings(captions: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield one warning per kind of syntax. `captions`: pairs of file name and caption."""
    for mark, (pattern, meaning) in MARKS.items():
        names = list(dict.fromkeys(name for name, caption in captions if pattern.search(caption)))
        if names:
            shown = first_names(names)
            yield f"{len(names)} captions contain {mark}, trained as plain text; elsewhere it is {meaning} ({shown})"
