"""The tab Train: settings, start, and the queue with its commands."""

from typing import Any

import gradio as gr

from job.output_folder import OutputFolder
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.reopen import ALSO_IN_TRAINING
from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from studio import texts
from studio.framed import escaped
from studio.jobs.queue import JobQueue
from studio.jobs.worker import ensure_worker
from studio.pictures.preparing import NEEDS_FILE
from studio.run_view import queue_table
from studio.settings_form import Form, make_form, of_preparation, sections_of
from studio.tabs.pictures import settings_of
from studio.workspace import Workspace

MAIN = (
    "max_train_steps", "train_batch_size", "learning_rate", "rank", "adapter", "optimizer", "validation_prompt",
    "sample_steps", "checkpointing_steps", "seed",
)  # fmt: skip
"""The ten settings that are changed most."""
OF_THE_SET = ("base_model", "concept_mode", "trigger_word", "class_word", "concepts", "resolution", "mask", "control")
"""What was chosen with the pictures."""


def other_settings() -> list[str]:
    """Return the settings below More: all that a training from prepared pictures reads."""
    taken = {*MAIN, *OF_THE_SET}
    names = [name for name in TrainingConfig.model_fields if name not in taken]
    return [name for name in names if not of_preparation(name) or name in ALSO_IN_TRAINING]


def training_settings(of_the_set: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge the settings of the set with those of this tab, without those that preparation has already applied."""
    kept = {
        name: value
        for name, value in of_the_set.items()
        if not of_preparation(name) or name in ALSO_IN_TRAINING or name == "resolution"
    }
    return kept | given


class TrainTab:
    """The components and what they do."""

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
        gr.Markdown(f"### {texts.MAIN_SETTINGS}")
        with gr.Row(elem_id="main-settings"):
            fields = dict(make_form(MAIN).fields)
        with gr.Accordion(texts.MORE_SETTINGS, open=False, elem_id="more-settings"):
            for section in sections_of(other_settings()):
                title = texts.SECTION.format(title=section.title, count=len(section.names))
                with gr.Accordion(title, open=False), gr.Row():
                    fields |= make_form(section.names).fields
        self.form = Form(fields)
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
        self.asked = gr.Markdown(elem_id="asked")

    def _connect(self) -> None:
        self.set.change(self._facts, self.set, self.facts)
        inputs = [self.set, self.name, *self.form.components]
        outputs = [self.status, self.table, self.job]
        self.start.click(self._start, inputs, outputs, validator=self._validate)
        outputs = [self.asked, self.table]
        self.pause.click(self._pause, self.job, outputs)
        self.resume.click(self._resume, self.job, outputs)
        self.cancel.click(self._cancel, self.job, outputs)

    def _facts(self, name: str | None) -> str:
        if not name:
            return ""
        try:
            settings = settings_of(self._workspace, name)
            dataset = PreparedDataset.read(OutputFolder(self._workspace.picture_set(name)).dataset)
        except (ConfigError, DatasetError) as error:
            raise gr.Error(str(error)) from error
        config = build_config(settings)
        words = ", ".join(config.class_words) or "-"
        needs = self._workspace.picture_set(name) / NEEDS_FILE
        facts = texts.SET_FACTS.format(
            images=len(dataset.examples), base=escaped(config.base_model), words=escaped(words)
        )
        if not needs.is_file():
            return facts
        return f"{facts}\n\n{texts.NEEDS.format(needs=escaped(needs.read_text(encoding='utf-8')))}"

    def _validate(self, name: str | None, run_name: str, *settings: str) -> list[Any]:
        before: dict[str, Any] = {}
        if name:
            before = training_settings(settings_of(self._workspace, name), {})
        chosen = gr.validate(bool(name), texts.NO_SET)
        return [chosen, gr.validate(True, ""), *self.form.complaints(settings, before)]

    def _start(self, name: str, run_name: str, *settings: str) -> list[Any]:
        try:
            values = training_settings(settings_of(self._workspace, name), self.form.given(settings))
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
