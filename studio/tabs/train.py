"""The tab Train: settings, start, and the queue with its commands."""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from job.output_folder import OutputFolder
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.reopen import ALSO_IN_TRAINING
from settings.presets import preset_purpose
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from studio import texts
from studio.estimates.duration import duration_of, plan_of
from studio.estimates.lines import cost_line, time_line
from studio.estimates.memory import needs_of
from studio.estimates.presets import presets_of, settings_of_preset, training_settings, values_of_preset
from studio.field_messages import FieldMessages
from studio.framed import escaped
from studio.jobs.queue import JobQueue
from studio.jobs.worker import ensure_worker
from studio.pictures.stored import noted_settings
from studio.run_view import queue_table
from studio.settings_form import MIN_WIDTH, Form, field_text, make_form, of_preparation, sections_of
from studio.workspace import Workspace

MAIN = (
    "max_train_steps", "train_batch_size", "learning_rate", "rank", "adapter", "optimizer", "validation_prompt",
    "sample_steps", "checkpointing_steps", "seed",
)  # fmt: skip
"""The ten settings that are changed most often."""
OF_THE_SET = ("base_model", "concept_mode", "trigger_word", "class_word", "concepts", "resolution", "mask", "control")
"""Settings that are selected with the images."""


def other_settings() -> list[str]:
    """Return the settings below More: all that affect a training on prepared images."""
    taken = {*MAIN, *OF_THE_SET}
    names = [name for name in TrainingConfig.model_fields if name not in taken]
    return [name for name in names if not of_preparation(name) or name in ALSO_IN_TRAINING]


class TrainTab:
    """The components and their actions."""

    def __init__(self, workspace: Workspace, queue: JobQueue) -> None:
        self._workspace, self._queue = workspace, queue
        gr.Markdown(texts.TRAIN_LEAD)
        with gr.Row(equal_height=False):
            self.set = gr.Dropdown(
                workspace.picture_sets(), value=None, label=texts.TRAIN_SET, info=texts.STORED_SET_INFO,
                elem_id="train-set",
            )  # fmt: skip
            self.name = gr.Textbox(label=texts.RUN_NAME, info=texts.RUN_NAME_INFO, elem_id="run-name")
        self.facts = gr.Markdown(elem_id="set-facts")
        self.cards = gr.Radio([], label=texts.CARDS, info=texts.CARDS_INFO, visible=False, elem_id="cards")
        gr.Markdown(f"### {texts.MAIN_SETTINGS}")
        with gr.Row(elem_id="main-settings"):
            fields = dict(make_form(MAIN).fields)
        with gr.Accordion(texts.MORE_SETTINGS, open=False, elem_id="more-settings"):
            for section in sections_of(other_settings()):
                title = texts.SECTION.format(title=section.title, count=len(section.names))
                with gr.Accordion(title, open=False), gr.Row():
                    fields |= make_form(section.names).fields
        self.form = Form(fields)
        gr.Markdown(f"### {texts.NEEDS_TITLE}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                self.price = gr.Number(
                    None, label=texts.PRICE, info=texts.PRICE_INFO, minimum=0, min_width=MIN_WIDTH, elem_id="price"
                )
            with gr.Column(scale=2, min_width=300):
                self.needs = gr.Markdown(elem_id="needs")
        self.start = gr.Button(texts.START, variant="primary", elem_id="start")
        self.status = gr.Markdown(elem_id="start-status")
        self._make_queue()
        self._connect()

    def _make_queue(self) -> None:
        gr.Markdown(f"### {texts.QUEUE}\n\n{texts.PAUSE_INFO}")
        self.table = gr.HTML(elem_id="queue", value=lambda: queue_table(self._queue.jobs()))
        with gr.Row(equal_height=False):
            self.job = gr.Dropdown(self._queue.choices(), value=None, label=texts.JOB, elem_id="job")
            self.pause = gr.Button(texts.PAUSE, elem_id="pause")
            self.resume = gr.Button(texts.RESUME, elem_id="resume")
            self.cancel = gr.Button(texts.CANCEL, elem_id="cancel", variant="stop")
        self.message = gr.Markdown(elem_id="job_message")

    def _connect(self) -> None:
        self.set.change(self._facts, self.set, self.facts)
        self.about_cards, self.about_needs = [self.set, self.price], [self.set, self.price, *self.form.components]
        for event in (self.set.change, self.price.change):
            event(self.show_cards, self.about_cards, self.cards, show_progress="hidden")
        showing: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        changes = [self.set.change, self.price.change, *self.form.changes]
        gr.on(changes, self.estimate, self.about_needs, self.needs, **showing)
        filled = self.cards.input(self._fill, self.cards, self.form.components)
        filled.then(self.estimate, self.about_needs, self.needs, **showing)
        messages = FieldMessages(self.form, self.set, self._of_set)
        messages.check_at(self.set.change, self.start.click)
        messages.check_after(filled)
        inputs = [self.set, self.name, *self.form.components]
        outputs = [self.status, self.table, self.job]
        self.start.click(self._start, inputs, outputs)
        outputs = [self.message, self.table]
        self.pause.click(self._pause, self.job, outputs)
        self.resume.click(self._resume, self.job, outputs)
        self.cancel.click(self._cancel, self.job, outputs)

    def _facts(self, name: str | None) -> str:
        if not name:
            return ""
        settings, dataset = self._read(name)
        config = build_config(settings)
        words = ", ".join(config.class_words) or "-"
        return texts.SET_FACTS.format(
            images=len(dataset.largest), base=escaped(config.base_model), words=escaped(words)
        )

    def _read(self, name: str) -> tuple[dict[str, Any], PreparedDataset]:
        """Return the settings and the images of a set. Raises gr.Error, which the page shows."""
        try:
            dataset = PreparedDataset.read(OutputFolder(self._workspace.picture_set(name)).dataset)
            return noted_settings(self._workspace.picture_set(name)), dataset
        except (ConfigError, DatasetError) as error:
            raise gr.Error(str(error)) from error

    def show_cards(self, name: str | None, price: float | None) -> Any:
        """Return the presets for the base model of the set, each with its requirements."""
        if not name:
            return gr.update(choices=[], visible=False)
        settings, dataset = self._read(name)
        folder = self._workspace.picture_set(name)
        cards = []
        for preset in presets_of(build_config(settings).base_model):
            values = settings_of_preset(preset, settings)
            try:
                needs = "\n".join(
                    [needs_of(folder, len(dataset.examples), values), *self._times(values, dataset, price)]
                )
            except ConfigError as error:
                needs = texts.NOT_ESTIMATED.format(reason=error)
            cards.append((texts.CARD.format(name=preset, purpose=preset_purpose(preset), needs=needs), preset))
        return gr.update(choices=cards, visible=bool(cards))

    def _fill(self, preset: str) -> list[Any]:
        """Return the preset's values for the fields of this tab."""
        values = values_of_preset(preset)
        return [gr.update(value=field_text(values.get(name))) for name in self.form.names]

    def estimate(self, name: str | None, price: float | None, *settings: str) -> Iterator[str]:
        """Yield the requirements of a training with the settings of this tab. The memory is last, as it takes
        seconds."""
        if not name:
            yield ""
            return
        of_the_set, dataset = self._read(name)
        folder = self._workspace.picture_set(name)
        try:
            values = training_settings(of_the_set, self.form.given(settings))
            times = self._times(values, dataset, price)
            yield _list([texts.MEMORY_PENDING, *times])
            yield _list([needs_of(folder, len(dataset.examples), values), *times])
        except ConfigError as error:
            yield escaped(texts.NOT_ESTIMATED.format(reason=error))

    def _times(self, values: dict[str, Any], dataset: PreparedDataset, price: float | None) -> list[str]:
        duration = duration_of(plan_of(build_config(values), dataset), self._queue.jobs())
        cost = cost_line(duration, price)
        return [time_line(duration), *([] if cost is None else [cost])]

    def _of_set(self, name: str | None) -> dict[str, Any]:
        """Return the settings of a set that a training uses; {} without a set."""
        return training_settings(noted_settings(self._workspace.picture_set(name)), {}) if name else {}

    def _start(self, name: str | None, run_name: str, *settings: str) -> list[Any]:
        if not name:
            return [texts.NOT_STARTED.format(reason=texts.NO_SET), gr.skip(), gr.skip()]
        try:
            values = training_settings(noted_settings(self._workspace.picture_set(name)), self.form.given(settings))
            build_config(values)
            folder = OutputFolder(self._workspace.picture_set(name)).dataset
            job = self._queue.add(run_name.strip() or name, folder, values)
        except (ConfigError, OSError) as error:
            return [texts.NOT_STARTED.format(reason=escaped(str(error))), gr.skip(), gr.skip()]
        ensure_worker(self._queue, self._workspace.runs)
        said = texts.STARTED.format(name=escaped(job.name))
        return [said, queue_table(self._queue.jobs()), gr.Dropdown(self._queue.choices(), value=job.id)]

    def _pause(self, identity: str | None) -> tuple[str, str]:
        return self._changed(identity, lambda job: self._queue.ask(job, "pause"), texts.ASKED_PAUSE)

    def _resume(self, identity: str | None) -> tuple[str, str]:
        said = self._changed(identity, self._queue.resume, texts.RESUMED)
        ensure_worker(self._queue, self._workspace.runs)
        return said

    def _cancel(self, identity: str | None) -> tuple[str, str]:
        return self._changed(identity, lambda job: self._queue.ask(job, "cancel"), texts.ASKED_CANCEL)

    def _changed(self, identity: str | None, change: Any, said: str) -> tuple[str, str]:
        if not identity:
            return texts.NO_JOB, queue_table(self._queue.jobs())
        try:
            job = change(identity)
        except ConfigError as error:
            raise gr.Error(str(error)) from error
        return said.format(name=escaped(job.name)), queue_table(self._queue.jobs())


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
