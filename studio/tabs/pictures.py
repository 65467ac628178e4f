"""The tab Images: from uploaded files to a prepared dataset with edited captions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from job.output_folder import OutputFolder
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from settings.preparation import DataConfig
from settings.presets import preset_names, preset_purpose, read_preset
from settings.record import ConfigError
from settings.training import build_config
from studio import texts
from studio.field_messages import FieldMessages
from studio.framed import escaped
from studio.pictures.preparing import PreparationFailed, prepare_pictures
from studio.pictures.stored import note_settings, note_sources
from studio.pictures.uploads import store
from studio.settings_form import Form, field_text, make_form
from studio.tabs.picture_editor import PictureEditor, refused_list
from studio.workspace import Workspace, free_folder

MAIN = ("base_model", "concept_mode", "trigger_word", "class_word", "captioner", "crop", "mask", "resolution")
OTHERS = tuple(name for name in DataConfig.model_fields if name not in MAIN)


class PicturesTab:
    """The components and their actions."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        gr.Markdown(texts.PICTURES_LEAD)
        self._inputs()
        self.status = gr.Markdown(elem_id="prepare-status")
        with gr.Row(equal_height=False):
            self.stored = gr.Dropdown(
                self._workspace.picture_sets(), value=None, label=texts.STORED_SET, info=texts.STORED_SET_INFO,
                elem_id="stored-set",
            )  # fmt: skip
        self.editor = PictureEditor(workspace, self.stored)
        self._connect()

    def _inputs(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                self.files = gr.File(file_count="multiple", label=texts.FILES, height=180, elem_id="drop")
                self.name = gr.Textbox(label=texts.SET_NAME, placeholder="my-dog", elem_id="set-name")
            with gr.Column(scale=2, min_width=300):
                self.preset = gr.Dropdown(
                    [(texts.NO_PRESET, ""), *preset_names()], value="", label=texts.PRESET, info=texts.PRESET_INFO,
                    elem_id="preset",
                )  # fmt: skip
                self.purpose = gr.Markdown(elem_id="purpose")
                with gr.Row():
                    first = make_form(MAIN[:4])
        with gr.Accordion(texts.MORE_PREPARATION, open=False), gr.Row():
            others = make_form([*MAIN[4:], *OTHERS])
        self.form = Form({**first.fields, **others.fields})
        with gr.Row():
            self.prepare = gr.Button(texts.PREPARE, variant="primary", elem_id="prepare")
            self.stop = gr.Button(texts.STOP_PREPARING, elem_id="stop-preparing")

    def _connect(self) -> None:
        filled = self.preset.change(self._filled, self.preset, [self.purpose, *self.form.components])
        messages = FieldMessages(self.form, self.preset, _of_preset)
        messages.check_at(self.prepare.click)
        messages.check_after(filled)
        preparing = self.prepare.click(
            self._prepare, [self.files, self.name, self.preset, *self.form.components],
            [self.status, self.stored, self.editor.refused],
        )  # fmt: skip
        self.stop.click(lambda: "", None, self.status, cancels=preparing)

    def _filled(self, preset: str) -> list[Any]:
        """Return the preset's values for the fields of this tab."""
        values = _of_preset(preset)
        fields = [gr.update(value=field_text(values.get(name))) for name in self.form.names]
        return [preset_purpose(preset) if preset else "", *fields]

    def _prepare(self, files: list[str] | None, name: str, preset: str, *settings: str) -> Iterator[Any]:
        """Store, prepare, and show the progress."""
        try:
            values = _of_preset(preset) | self.form.given(settings)
            config = build_config(values)
            paths = [Path(each) for each in files or []]
            output = free_folder(self._workspace.pictures, name or (paths[0].stem if paths else ""))
            uploads = free_folder(self._workspace.uploads, output.name)
            sources = store(paths, uploads, config.preparation)
            for progress in prepare_pictures(sources, values, output, uploads / "request.json"):
                yield texts.PREPARING.format(message=escaped(progress.message)), gr.skip(), gr.skip()
        except (ConfigError, DatasetError, PreparationFailed) as error:
            refused = error.refused if isinstance(error, PreparationFailed) else ()
            yield texts.NOT_PREPARED.format(reason=escaped(str(error))), gr.skip(), refused_list(refused)
            return
        note_sources(output, sources)
        note_settings(output, values)
        dataset = PreparedDataset.read(OutputFolder(output).dataset)
        done = texts.PREPARED.format(images=len(dataset.largest), refused=len(dataset.rejected))
        yield done, gr.Dropdown(self._workspace.picture_sets(), value=output.name), refused_list(dataset.rejected)


def _of_preset(preset: str | None) -> dict[str, Any]:
    """Return the settings of a preset; {} without one."""
    return read_preset(preset) if preset else {}
