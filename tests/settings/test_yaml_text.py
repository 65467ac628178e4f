"""Tests of YAML parsing: booleans, text that YAML reads as another type, duplicate names, and anchors."""

import pytest

from settings.record import ConfigError, build_settings, parse_settings
from settings.training import TrainingConfig, build_config


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("mixed_precision: no", "mixed_precision", "no"),
        ("mixed_precision: No", "mixed_precision", "no"),
        ("mixed_precision: false", "mixed_precision", "no"),
        ('{"mixed_precision": false}', "mixed_precision", "no"),
        ("mixed_precision: 'no'", "mixed_precision", "no"),
        ("collapse_guard: off", "collapse_guard", "off"),
        ("collapse_guard: false", "collapse_guard", "off"),
        ("evaluate: no", "evaluate", "false"),
        ("evaluate: yes", "evaluate", "true"),
        ("evaluate: true", "evaluate", "true"),
        ("gradient_checkpointing: true", "gradient_checkpointing", "always"),
        ("gradient_checkpointing: off", "gradient_checkpointing", "never"),
        ("compile: on", "compile", "always"),
        ("mask: false", "mask", "none"),
        ("horizontal_flip: yes", "horizontal_flip", True),
        ("balance_concepts: off", "balance_concepts", False),
        ("class_word: no", "class_word", "no"),
        ("caption_suffix: on", "caption_suffix", "on"),
        ("captioner: none", "captioner", "none"),
    ],
)
def test_yes_and_no_mean_what_the_setting_takes(text: str, name: str, value: object) -> None:
    assert getattr(build_config(parse_settings(text, "text")), name) == value


def test_the_command_line_says_it_too() -> None:
    assert build_settings(TrainingConfig, {"mixed_precision": "false", "compile": "true"}).mixed_precision == "no"


@pytest.mark.parametrize("text", ["mixed_precision: true", "lr_scheduler: no", "save_precision: yes"])
def test_what_means_no_choice_is_an_error(text: str) -> None:
    name = text.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"^{name}: Input should be '.*\(given: "):
        build_config(parse_settings(text, "text"))


@pytest.mark.parametrize("text", ["class_word: 2024", "class_word: 2024-05-12", "class_word: true", "class_word: 1.5"])
def test_text_that_yaml_reads_as_something_else_is_put_between_quotes(text: str) -> None:
    with pytest.raises(ConfigError, match="^class_word: must be text; put it in quotes"):
        build_config(parse_settings(text, "text"))


def test_a_setting_stands_once() -> None:
    with pytest.raises(ConfigError, match="^text: cannot be read as YAML or JSON: rank is set twice"):
        parse_settings("rank: 4\nseed: 1\nrank: 8", "text")
    with pytest.raises(ConfigError, match="folder is set twice"):
        parse_settings("concepts: [{folder: a, folder: b}]", "text")


def test_anchors_and_merges_still_work() -> None:
    text = "fields:\n  a: &x {low: 1}\n  b: {<<: *x, high: 2}"
    assert parse_settings(text, "text") == {"fields": {"a": {"low": 1}, "b": {"low": 1, "high": 2}}}
