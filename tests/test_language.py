"""Tests that code, messages and documents avoid words for which the field has a term."""

import re
import subprocess

from tests.conftest import PROJECT

TERMS = {
    r"crew": "workers",
    r"doors?": "entry points",
    r"first process|first one's caller|(?:is|of)_first|first_alone": "main process, rank 0",
    r"dismiss\w*": "release",
    r"whoever": "the caller, or who is meant",
    r"hangs? on": "depends on",
    r"(?:is|are|was|were) told": "gets, receives",
    r"tells? (?:how|which|what|whether|where)": "reports, describes",
    r"what leaves|that leaves a training": "artifact, result",
    r"hand(?:s|ed)? (?:out|back)": "assigns, returns",
    r"(?:base|gives? (?:it|them|the base)) (?:given )?back": "restores",
    r"share[sd]? (?:it )?out": "shards",
    r"a stranger|strangers": "untrusted",
    r"wish(?:es)?": "request, setting",
    r"(?:nobody|somebody|everybody)": "a statement without a person",
    r"brings? along": "includes",
    r"drowns?": "dominates, is outweighed",
    r"gaze": "attention",
    r"now and then": "at intervals",
    r"deserves?": "by its weight",
    r"in silence": "without a warning",
}
"""Avoided words, as regular expressions for whole words, and what to write instead."""
SUFFIXES = ("*.py", "*.md", "*.yaml", "*.toml", "*.html", "*.js", "*.css", "*.sh", "Makefile")
HERE = "tests/test_language.py"
NOT_PROSE = ("assets/mini-sdxl/", "assets/mini-flow/", "benchmarks/results/")
AVOIDED = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(TERMS)})(?![A-Za-z])", re.IGNORECASE)


def avoided_words(text: str) -> list[str]:
    """Returns the avoided words in `text`, with line numbers. Words may be separated by underscores or line breaks."""
    joined = text.replace("_", " ")
    return [f"{joined.count(chr(10), 0, found.start()) + 1}: {found.group()}" for found in AVOIDED.finditer(joined)]


def test_no_file_has_an_avoided_word() -> None:
    listed = subprocess.run(["git", "ls-files", *SUFFIXES], cwd=PROJECT, capture_output=True, text=True, check=True)
    found = [
        f"{name}:{word}"
        for name in listed.stdout.splitlines()
        if name != HERE and not name.startswith(NOT_PROSE) and (PROJECT / name).exists()
        for word in avoided_words((PROJECT / name).read_text(encoding="utf-8"))
    ]
    assert found == []


def test_avoided_words_are_found_wherever_they_stand() -> None:
    assert avoided_words("def crew_of(x):\n    # Doors\n") == ["1: crew", "2: Doors"]
    assert avoided_words("processes.is_first, the first process") == ["1: first process"]
    assert avoided_words("indoors, screwdriver, the main process, foretold") == []
