"""The length that a generated caption may have."""

from preprocess.captions.generated import _fits
from settings.preparation import DataConfig
from settings.record import build_settings


def test_it_leaves_space_for_the_longest_trigger_word() -> None:
    concepts = [{"trigger_word": "TOK", "folder": "a"}, {"trigger_word": "TOKTOKTOK", "folder": "b"}]
    fits = _fits(build_settings(DataConfig, {"concepts": concepts}), count_tokens=len, most=40)
    longest = 40 - len(", in the style of TOKTOKTOK")
    assert fits("x" * longest) and not fits("x" * (longest + 1))
