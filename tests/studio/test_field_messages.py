"""Tests of the messages at the fields of a form."""

from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("gradio", reason="requirements-studio.txt is not installed")

import gradio as gr

from settings.training import TrainingConfig
from studio.field_messages import WRONG, FieldMessages
from studio.settings_form import Form, make_form

OF_THE_SETS: dict[str | None, dict[str, Any]] = {None: {}, "short": {"max_train_steps": 10}}


@pytest.fixture(scope="module")
def form() -> Form:
    with gr.Blocks(analytics_enabled=False):
        return make_form(list(TrainingConfig.model_fields))


@pytest.fixture(scope="module")
def messages(form: Form) -> FieldMessages:
    with gr.Blocks(analytics_enabled=False):
        return FieldMessages(form, gr.Dropdown([]), lambda name: OF_THE_SETS[name])


def checked(
    messages: FieldMessages, form: Form, values: Mapping[str, str], marked: list[str], of_set: str | None = None
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the names of the fields with a message, and the updates of the fields that change."""
    names, *updates = messages.checked(marked, of_set, *(values.get(name, "") for name in form.names))
    assert all("value" not in update for update in updates)  # what the user types is not replaced
    shown = {name: update for name, update in zip(form.names, updates, strict=True) if update != gr.skip()}
    return names, shown


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"rank": "0"}, "rank"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"max_train_steps": "10", "checkpointing_steps": "20"}, "checkpointing_steps"),
        ({"adapter": "nothing"}, "adapter"),
        ({"sample_steps": "5", "num_validation_images": "0"}, "sample_steps"),
    ],
)
def test_what_is_wrong_stands_at_its_field_until_it_is_right(
    messages: FieldMessages, form: Form, values: dict[str, str], name: str
) -> None:
    marked, shown = checked(messages, form, values, [])
    assert marked == [name] and shown.keys() == {name}
    message, _, description = shown[name]["info"].partition("\n")
    assert message.startswith(f"**{name}") and description == form.fields[name].info
    assert shown[name]["elem_classes"] == [WRONG]
    again = checked(messages, form, values | {"seed": "3"}, marked)
    assert again == (marked, shown)  # only another field has changed
    marked, shown = checked(messages, form, {}, marked)
    assert marked == [] and shown.keys() == {name}
    assert (shown[name]["info"], shown[name]["elem_classes"]) == (form.fields[name].info, [])
    assert checked(messages, form, {}, marked) == ([], {})


def test_values_of_the_set_count(messages: FieldMessages, form: Form) -> None:
    assert checked(messages, form, {"checkpointing_steps": "20"}, [])[0] == []
    assert checked(messages, form, {"checkpointing_steps": "20"}, [], "short")[0] == ["checkpointing_steps"]


def test_a_description_that_a_message_has_replaced_comes_back_beside_another(
    messages: FieldMessages, form: Form
) -> None:
    marked, shown = checked(messages, form, {"rank": "0", "adapter": "nothing"}, ["rank", "seed"])
    assert set(marked) == {"rank", "adapter"} and shown.keys() == {"rank", "adapter", "seed"}
    assert shown["seed"]["info"] == form.fields["seed"].info
