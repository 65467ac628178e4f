"""Error messages of a form, shown at its fields."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from studio.settings_form import Form, problems

WRONG = "wrong"
"""Class of a field with a message, for the style sheet."""
MESSAGE = "**{message}**\n{description}"


class FieldMessages:
    """Checks all fields whenever one loses focus, and shows errors above the description of their setting until the
    value is valid.

    Gradio's validators show such messages, too, but remove them at the next event of any component, such as the
    page's refresh.
    """

    def __init__(self, form: Form, context: Any, before: Callable[[Any], Mapping[str, Any]]) -> None:
        """`context`: a component. `before` returns, from its value, the settings to which the form adds."""
        self._form, self._before = form, before
        self._marked = gr.State([])
        inputs, outputs = [self._marked, context, *form.components], [self._marked, *form.components]
        self._check: dict[str, Any] = {
            "fn": self.checked, "inputs": inputs, "outputs": outputs, "show_progress": "hidden",
        }  # fmt: skip

    def check_at(self, *events: Any) -> None:
        """Check also at these events of components."""
        gr.on([*self._form.changes, *events], **self._check, trigger_mode="always_last")

    def check_after(self, step: Any) -> None:
        """Check after a step in Gradio, such as one that fills in the fields."""
        step.then(**self._check)

    def checked(self, marked: Sequence[str], context: Any, *texts: str | None) -> list[Any]:
        """Return the names of the fields that have a message now, and an update of each field. `marked`: the names that
        had one until now."""
        wrong = problems(dict(self._before(context)) | self._form.given(texts))
        updates = [
            _update(field, wrong.get(name)) if name in wrong or name in marked else gr.skip()
            for name, field in self._form.fields.items()
        ]
        return [[name for name in self._form.names if name in wrong], *updates]


def _update(field: Any, message: str | None) -> Any:
    if message is None:
        return gr.update(info=field.info, elem_classes=[])
    return gr.update(info=MESSAGE.format(message=message, description=field.info), elem_classes=[WRONG])
