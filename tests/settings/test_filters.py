"""Tests of filters: they compare values, and never evaluate code."""

import pytest

from settings.filters import parse_filter, refused_by


@pytest.mark.parametrize(
    ("condition", "metadata", "passes"),
    [
        ("aesthetic_score > 4.5", {"aesthetic_score": 5}, True),
        ("aesthetic_score > 4.5", {"aesthetic_score": "4.5"}, False),
        ("aesthetic_score>=4.5", {"aesthetic_score": "4.5"}, True),
        ("width < 512", {"width": 512}, False),
        ("license == CC0", {"license": "CC0"}, True),
        ('license == "CC0"', {"license": "CC-BY"}, False),
        ("n == 1", {"n": "1.0"}, True),
        ("n != 1", {"n": 1}, False),
        ("tags contains dog", {"tags": "a dog, a cat"}, True),
    ],
)
def test_conditions(condition: str, metadata: dict[str, object], passes: bool) -> None:
    assert (refused_by([parse_filter(condition)], metadata) is None) == passes


def test_reasons_name_field_value_and_condition() -> None:
    conditions = [parse_filter("score > 4")]
    assert refused_by(conditions, {"score": 3}) == "score is 3; the filter requires score > 4"
    assert "has no score, which the filter 'score > 4' needs" in str(refused_by(conditions, {}))
    assert "score is 'high'; the filter 'score > 4' needs a number" in str(refused_by(conditions, {"score": "high"}))


@pytest.mark.parametrize(
    "text", ["", "score", "score >", "> 4", "__import__('os').system('x')", "score > high", "a b > 1"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a condition|is not a number"):
        parse_filter(text)
