"""Tests of the values that a command line gives to settings, and of the help that is made from them."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from settings.command_line.options import MAIN_NOTE, add_options, given_options, sections
from settings.command_line.parser import CommandParser
from settings.preparation import DataConfig
from settings.record import ConfigError, Settings, build_settings
from settings.training import TrainingConfig, build_config


class PartSection(Settings):
    """One of several. This is not its first line."""

    name: str = Field(description="What it is called")
    scales: tuple[float, ...] = Field((1.0,), description="How large")


class Everything(PartSection):
    """Every kind of field."""

    count: int | None = Field(None, ge=1, description="How many, 100 % of them")
    kind: Literal["a", "b"] = Field("a", description="Which")
    hidden: bool = Field(True, description="Whether it is seen")
    folder: Path | None = Field(None, description="Where")
    parts: tuple[PartSection, ...] = Field((), description="What it is made of")
    words: tuple[Literal["x", "y"], ...] = Field((), description="Some")
    labels: dict[str, int] = Field(default_factory=dict, description="Numbers by name")


def parse(record: type[Settings], *words: str) -> dict[str, Any]:
    parser = CommandParser()
    add_options(parser, record, ())
    return given_options(parser.parse_args(words), record)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["--evaluation_scales", "0.7", "1.0"], {"evaluation_scales": (0.7, 1.0)}),
        (["--evaluation_scales", "[0.7, 1.0]"], {"evaluation_scales": (0.7, 1.0)}),
        (["--evaluation_scales=1"], {"evaluation_scales": (1.0,)}),
        (["--trackers", "tensorboard", "wandb"], {"trackers": ("tensorboard", "wandb")}),
        (["--trackers", "[tensorboard, wandb]"], {"trackers": ("tensorboard", "wandb")}),
        (["--trackers", "tensorboard", "--trackers", "wandb"], {"trackers": ("tensorboard", "wandb")}),
        (["--trackers", "[]"], {"trackers": ()}),
        (["--filters", "width > 5", "height > 6"], {"filters": ("width > 5", "height > 6")}),
        (["--prior_prompts", "[a] dog", "a cat, a bird"], {"prior_prompts": ("[a] dog", "a cat, a bird")}),
        (["--evaluation_prompts", "{trigger}"], {"evaluation_prompts": ("{trigger}",)}),
        (["--caption_prefix", "{a}: [b], "], {"caption_prefix": "{a}: [b], "}),
        (["--horizontal_flip"], {"horizontal_flip": True}),
        (["--horizontal_flip", "true"], {"horizontal_flip": True}),
        (["--balance_concepts", "false"], {"balance_concepts": False}),
        (["--learning_rate", "1e-4", "--rank=8"], {"learning_rate": 1e-4, "rank": 8}),
        (["--timestep_bias", "-0.5"], {"timestep_bias": -0.5}),
        (["--class_word", "null", "--mixed_precision", "no"], {"class_word": None, "mixed_precision": "no"}),
    ],
)
def test_options_become_values(words: list[str], values: dict[str, Any]) -> None:
    extras: dict[str, Any] = {"prior_matching_weight": 1} if "--prior_prompts" in words else {}
    extras |= {"evaluate": "true"} if any("evaluation" in word for word in words) else {}
    config = build_config(parse(TrainingConfig, *words) | extras)
    assert {name: getattr(config, name) for name in values} == values
    assert config.model_fields_set == {*values, *extras}


@pytest.mark.parametrize("record", [TrainingConfig, DataConfig])
def test_the_options_of_the_note_are_those_of_every_command(record: type[Settings]) -> None:
    assert set(re.findall(r"--(\w+)", MAIN_NOTE)) - {"config"} <= record.model_fields.keys()


@pytest.mark.parametrize(
    "words",
    [
        ["{trigger_word: ANN, folder: a}", "{trigger_word: B}"],
        ["[{trigger_word: ANN, folder: a}, {trigger_word: B}]"],
        ['[{"trigger_word": "ANN", "folder": "a"}, {"trigger_word": "B"}]'],
    ],
)
def test_what_is_nested_is_yaml(words: list[str]) -> None:
    config = build_settings(DataConfig, parse(DataConfig, "--concepts", *words))
    assert [(concept.trigger_word, concept.folder) for concept in config.concepts] == [("ANN", "a"), ("B", None)]


def test_mappings_are_yaml() -> None:
    assert parse(Everything, "--labels", "{a: 1, b: 2}") == {"labels": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluation_scales", "0.7,1.0"], "evaluation_scales.0: must be a single value"),
        (["--trackers", "tensorboard,wandb"], "trackers.0: Input should be 'tensorboard' or 'wandb'"),
        (["--concepts", "A"], r"concepts.0: must be a mapping, such as {name: value} \(given: 'A'\)"),
        (
            ["--concepts", "{trigger_word: ANN, clas_word: b}"],
            "concepts.0.clas_word: unknown setting; did you mean class_",
        ),
        (
            ["--concepts", "{trigger_word: ANN, num_repeats: 2}"],
            r"num_repeats: unknown setting; did you mean repeats\?",
        ),
        (["--horizontal_flip", "photos.zip"], r"horizontal_flip: .*valid boolean.* \(given: 'photos.zip'\)"),
    ],
)
def test_wrong_values_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_config(parse(TrainingConfig, *words))
    assert "\n" not in str(error.value)


def test_help_has_types_choices_ranges_and_defaults() -> None:
    parser = CommandParser()
    add_options(parser, Everything, ("count", "name"))
    short = parser.format_help()
    full = " ".join(parser.format_help_all().split())
    assert "--count INT" in short and "--name TEXT" in short and "--kind" not in short
    assert "7 more settings with --help_all: part, everything." in " ".join(short.split())
    assert "--count INT How many, 100 % of them (at least 1)" in full
    assert "part: One of several. This is not its first line." in full
    assert "--scales FLOAT [FLOAT ...] How large (default: 1.0)" in full
    assert "--kind {a,b} Which (default: a)" in full
    assert "--hidden [{true,false}] Whether it is seen (default: true)" in full
    assert "--folder PATH Where" in full
    assert "--parts YAML [YAML ...] What it is made of" in full
    assert "--words {x,y} [{x,y} ...] Some" in full
    assert "--labels YAML Numbers by name" in full
    assert "more settings" not in full


@pytest.mark.parametrize("record", [TrainingConfig, DataConfig])
def test_every_field_stands_in_one_section_with_a_line_about_it(record: type[Settings]) -> None:
    parts = list(sections(record))
    assert [name for part in parts for name in part.names] == list(record.model_fields)
    assert len({part.title for part in parts}) == len(parts)
    assert all(part.summary.endswith(".") for part in parts)
