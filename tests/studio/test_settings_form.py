"""Tests of the fields of the page, which are made from TrainingConfig."""

import pytest

pytest.importorskip("gradio", reason="requirements-studio.txt is not installed")

import gradio as gr

from settings.training import TrainingConfig, build_config
from studio.estimates.presets import training_settings
from studio.settings_form import Form, make_form, parse, problems
from studio.tabs import pictures, train


@pytest.fixture(scope="module")
def form() -> Form:
    with gr.Blocks(analytics_enabled=False):
        return make_form(list(TrainingConfig.model_fields))


def test_every_setting_has_a_field_with_its_description(form: Form) -> None:
    for name, field in form.fields.items():
        assert field.label == name and str(TrainingConfig.model_fields[name].description) in field.info
    assert "1 to 1024" in form.fields["rank"].info.replace(",", "")
    assert ("default: lora", "") in form.fields["adapter"].choices


def test_every_setting_is_on_one_of_the_tabs() -> None:
    shown = {*pictures.MAIN, *pictures.OTHERS, *train.MAIN, *train.other_settings()}
    assert shown == set(TrainingConfig.model_fields)
    assert len(train.MAIN) == 10


def test_empty_fields_are_not_given(form: Form) -> None:
    assert form.given([field.value for field in form.components]) == {}


def test_texts_are_read_as_on_the_command_line() -> None:
    given = parse(
        {
            "rank": " 4 ",
            "horizontal_flip": "true",
            "validation_prompts": "a TOK, red\na TOK, blue",
            "learning_rate": "2e-3",
            "seed": "",
            "class_word": None,
        }
    )
    config = build_config(given)
    assert set(given) == {"rank", "horizontal_flip", "validation_prompts", "learning_rate"}
    assert (config.rank, config.horizontal_flip, config.learning_rate) == (4, True, 2e-3)
    assert config.validation_prompts == ("a TOK, red", "a TOK, blue")
    assert parse({"unrelated_prompts": "[a cat, a dog]"}) == {"unrelated_prompts": ["a cat", "a dog"]}


def test_values_of_the_set_count_in_the_verdict() -> None:
    assert problems({"max_train_steps": 10, "checkpointing_steps": "20"}).keys() == {"checkpointing_steps"}


def test_settings_that_preparation_has_applied_are_not_given_again() -> None:
    of_the_set = {"crop": "face", "trigger_word": "TOK", "resolution": 64, "rank": 8, "horizontal_flip": False}
    assert training_settings(of_the_set, {"rank": 4}) == {"trigger_word": "TOK", "resolution": 64, "rank": 4}
