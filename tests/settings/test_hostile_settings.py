"""Tests of untrusted settings: texts and values that would take hours or gigabytes to read are refused at once."""

import json
import time
import tracemalloc

import pytest

from settings.record import ConfigError, build_settings, parse_settings
from settings.training import TrainingConfig, build_config


def laughs(lists: int) -> str:
    """Return YAML in which each list refers to the previous one ten times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, lists)]
    return "\n".join([*lines, f"rank: *a{lists - 1}", "filters: *a3"])


MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(97 + n)}: &{chr(97 + n)} {{<<: [{', '.join([f'*{chr(96 + n)}'] * 12)}]}}\n" for n in range(1, 12)
)
HOSTILE = {
    "anchors that explode": laughs(9),
    "long texts by anchors": f"a: &a {'x' * 90_000}\nfilters: [{', '.join(['*a'] * 5_000)}]",
    "merges that explode": MERGES,
    "an anchor that holds itself": "rank: &a [*a]",
    "lists in lists": "rank: " + "[" * 45_000 + "]" * 45_000,
    "a text of a megabyte": "class_word: " + "x" * 1_000_000,
    "a month of 13": "rank: 2026-13-45",
    "a number of 5,000 digits": f"rank: {'9' * 5000}",
    "a number by sixties": "rank: " + ":".join(["59"] * 20_000),
    "very many wrong concepts": f"concepts: [{', '.join(['1'] * 50_000)}]",
    "thousands of unknown names": "\n".join(f"learning_rat{n}: 1" for n in range(5000)),
    "a name of 90,000 characters": f"{'learning_rate' * 7000}: 1",
    "a filter of blanks": json.dumps({"filters": ["width > x" + " " * 90_000 + "y"]}),
    "a list as a name": "[1, 2]: 3",
    "a mapping as a name": "{a: 1}: 3",
    "python": "rank: !!python/object/apply:os.system [touch trapped]",
    "not finite": "learning_rate: .nan",
    "control characters": "rank: \x00",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_it_is_refused_soon_with_a_short_reason_and_little_memory(text: str) -> None:
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(ConfigError) as refusal:
            build_config(parse_settings(text, "config"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 5
    assert peak < 200e6
    assert 10 < len(str(refusal.value)) < 20_000


def test_anchors_are_read_where_they_are_few() -> None:
    text = "a: &common {rank: 4}\nb: {<<: *common, seed: 1}\n"
    assert parse_settings(text, "config") == {"a": {"rank": 4}, "b": {"rank": 4, "seed": 1}}


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(ConfigError) as refusal:
        build_settings(TrainingConfig, {"rank": "x" * 5000})
    assert str(refusal.value).startswith("rank: Input should be a valid integer") and len(str(refusal.value)) < 300


def test_a_text_without_end_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="^validation_prompt: .*at most 4000 characters"):
        build_config({"validation_prompt": "x" * 5000})
