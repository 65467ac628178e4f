"""Tests that matching with untrusted regular expressions always ends."""

import resource

import pytest

from settings.record import ConfigError
from trainer.patterns.matching import matching
from trainer.patterns.process import CPU_SECONDS

TEXTS = ["down.attn1.to_q", "down.attn2.to_k", "a" * 60 + "!"]
ENDLESS = {
    "backtracking": "(?:a|aa)+(?:a|aa)+(?:a|aa)+$b?(?:(a+)+)+c",
    "repetitions in repetitions": "((((a{1,1000}){1,1000}){1,1000}){1,1000})!!",
    "compiling alone takes for ever": "(?:" * 60 + "a" + "){1,9}" * 60,
    "a hundred groups": "(" * 100 + "a" + ")+" * 100 + "$",
    "more than a memory holds": "(?:(?:a{1000000000}){1000000000})",
}


@pytest.mark.parametrize(
    ("pattern", "whole", "found"),
    [(r"down\..*", True, [0, 1]), (r"attn\d\.to_[kq]$", False, [0, 1]), (r"to_k", True, []), (r"\p{Lu}|!", False, [2])],
)
def test_what_matches(pattern: str, whole: bool, found: list[int]) -> None:
    assert matching(pattern, TEXTS, whole=whole, setting="x") == [TEXTS[index] for index in found]


def test_what_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^lora_target_regex: '\(' is not a valid regular expression: missing \)"):
        matching("(", TEXTS, whole=True, setting="lora_target_regex")


def cpu_seconds_of_children() -> float:
    """Of the ended child processes of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("pattern", ENDLESS.values(), ids=ENDLESS.keys())
def test_one_that_would_run_for_hours_is_refused(pattern: str) -> None:
    begun = cpu_seconds_of_children()
    with pytest.raises(ConfigError, match="^token_init_pattern: .* takes too long"):
        matching(pattern, TEXTS, whole=False, setting="token_init_pattern")
    assert cpu_seconds_of_children() - begun < CPU_SECONDS + 2  # the start of the process is included
