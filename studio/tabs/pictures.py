"""The tab Pictures: from dropped files to a prepared dataset with captions as the user wants them."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from job.output_folder import OutputFolder
from preprocess.dataset import Example, PreparedDataset, Rejected
from preprocess.errors import DatasetError
from preprocess.gallery.page import GALLERY_FILE
from settings.preparation import DataConfig
from settings.presets import preset_names, preset_purpose, read_preset
from settings.record import ConfigError
from settings.training import build_config
from studio import texts
from studio.framed import escaped, framed
from studio.pictures.edits import EditedSet
from studio.pictures.preparing import PreparationFailed, prepare_pictures
from studio.pictures.shown import facts, picture_with_crop
from studio.pictures.uploads import store
from studio.settings_form import Form, make_form
from studio.workspace import Workspace, free_folder

MAIN = ("base_model", "concept_mode", "trigger_word", "class_word", "captioner", "crop", "mask", "resolution")
SETTINGS_FILE = "studio.yaml"
"""In the folder of a set: the preset's settings and those that were given on this tab."""
OTHERS = tuple(name for name in DataConfig.model_fields if name not in MAIN)


class PicturesTab:
    """The components and what they do."""

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
        self.refused = gr.HTML(elem_id="refused")
        self.warnings = gr.Markdown(elem_id="picture-warnings")
        self._editor()
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

    def _editor(self) -> None:
        self.chosen = gr.State("")
        with gr.Row(equal_height=False, visible=False) as self.editor:
            with gr.Column(scale=3, min_width=300):
                self.gallery = gr.Gallery(
                    label=texts.GALLERY, columns=4, height="auto", allow_preview=False, interactive=False,
                    object_fit="contain", elem_id="crops", buttons=[],
                )  # fmt: skip
                with gr.Accordion(texts.ALL_CAPTIONS, open=True):
                    with gr.Row():
                        self.find = gr.Textbox(label=texts.FIND, elem_id="find")
                        self.replacement = gr.Textbox(label=texts.REPLACEMENT, elem_id="replacement")
                    self.replace = gr.Button(texts.REPLACE, elem_id="replace")
                    self.prefix = gr.Textbox(label=texts.PREPEND, elem_id="prefix")
                    self.prepend = gr.Button(texts.DO_PREPEND, elem_id="prepend")
            with gr.Column(scale=2, min_width=300):
                self.picture = gr.Image(
                    label=texts.ONE_PICTURE, interactive=False, type="pil", height=320, buttons=[], elem_id="picture"
                )
                self.facts = gr.Markdown(texts.NO_PICTURE, elem_id="facts")
                self.caption = gr.Textbox(label=texts.CAPTION, info=texts.CAPTION_INFO, lines=3, elem_id="caption")
                self.save = gr.Button(texts.SAVE_CAPTION, variant="primary", elem_id="save-caption")
                self.out = gr.Checkbox(label=texts.LEAVE_OUT, elem_id="leave-out")
                self.edited = gr.Markdown(elem_id="edited")
        with gr.Accordion(texts.WHOLE_GALLERY, open=False):
            self.show_gallery = gr.Button(texts.SHOW_GALLERY)
            self.whole = gr.HTML()

    def _connect(self) -> None:
        self.preset.change(self._filled, self.preset, [self.purpose, *self.form.components])
        shown = [self.editor, self.gallery, self.refused, self.warnings]
        preparing = self.prepare.click(
            self._prepare, [self.files, self.name, self.preset, *self.form.components],
            [self.status, self.stored, self.refused], validator=self._validate,
        )  # fmt: skip
        self.stop.click(lambda: "", None, self.status, cancels=preparing)
        one = [self.chosen, self.picture, self.facts, self.caption, self.out]
        self.stored.change(self._opened, self.stored, [*shown, *one])
        self.gallery.select(self._choose, self.stored, one)
        edited = [self.edited, self.gallery]
        self.save.click(self._save, [self.stored, self.chosen, self.caption], edited)
        self.out.input(self._leave_out, [self.stored, self.chosen, self.out], edited)
        self.replace.click(self._replace, [self.stored, self.find, self.replacement], edited)
        self.prepend.click(self._prepend, [self.stored, self.prefix], edited)
        self.show_gallery.click(self._whole, self.stored, self.whole)

    def _filled(self, preset: str) -> list[Any]:
        """The preset's values in the fields of this tab."""
        values = read_preset(preset) if preset else {}
        fields = [gr.update(value=_text(values.get(name))) for name in self.form.names]
        return [preset_purpose(preset) if preset else "", *fields]

    def _validate(self, files: Any, name: str, preset: str, *settings: str) -> list[Any]:
        fine = gr.validate(True, "")
        return [fine, fine, fine, *self.form.complaints(settings, read_preset(preset) if preset else {})]

    def _prepare(self, files: list[str] | None, name: str, preset: str, *settings: str) -> Iterator[Any]:
        """Store, prepare, and show the progress."""
        try:
            values = (read_preset(preset) if preset else {}) | self.form.given(settings)
            config = build_config(values)
            paths = [Path(each) for each in files or []]
            output = free_folder(self._workspace.pictures, name or (paths[0].stem if paths else ""))
            uploads = free_folder(self._workspace.uploads, output.name)
            sources = store(paths, uploads, config.preparation)
            for progress in prepare_pictures(sources, values, output, uploads / "request.json"):
                yield texts.PREPARING.format(message=escaped(progress.message)), gr.skip(), gr.skip()
        except (ConfigError, DatasetError, PreparationFailed) as error:
            refused = error.refused if isinstance(error, PreparationFailed) else ()
            yield texts.NOT_PREPARED.format(reason=escaped(str(error))), gr.skip(), _refused_list(refused)
            return
        (output / SETTINGS_FILE).write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        dataset = PreparedDataset.read(OutputFolder(output).dataset)
        done = texts.PREPARED.format(images=len(dataset.examples), refused=len(dataset.rejected))
        yield done, gr.Dropdown(self._workspace.picture_sets(), value=output.name), _refused_list(dataset.rejected)

    def _folder(self, name: str) -> Path:
        return OutputFolder(self._workspace.picture_set(name)).dataset

    def _read(self, name: str | None) -> EditedSet:
        """Raises gr.Error, which the page shows."""
        try:
            return EditedSet.read(self._folder(name or ""))
        except (ConfigError, DatasetError) as error:
            raise gr.Error(str(error)) from error

    def _opened(self, name: str | None) -> list[Any]:
        """The set without a chosen picture, all at once: what is chosen after that stays."""
        none_chosen = ["", None, texts.NO_PICTURE, "", False]
        if not name:
            return [gr.update(visible=False), [], "", "", *none_chosen]
        edited = self._read(name)
        dataset = edited.dataset
        lines = "\n".join(f"- {escaped(line)}" for line in dataset.told_warnings)
        return [
            gr.update(visible=True),
            _pictures(edited),
            _refused_list(dataset.rejected),
            f"**{texts.WARNINGS}**\n\n{lines}" if lines else "",
            *none_chosen,
        ]

    def _choose(self, name: str, event: gr.SelectData) -> list[Any]:
        edited = self._read(name)
        example = _shown_examples(edited)[event.index]
        out = example in edited.left_out
        picture = picture_with_crop(edited.dataset.folder, example)
        return [example.source, picture, escaped(f"{example.source}: {facts(example)}"), example.caption, out]

    def _save(self, name: str, source: str, caption: str) -> tuple[str, Any]:
        return self._edit(name, lambda edited: edited.with_caption(source, caption), texts.SAVED.format(source=source))

    def _leave_out(self, name: str, source: str, out: bool) -> tuple[str, Any]:
        said = (texts.LEFT_OUT if out else texts.TAKEN_BACK).format(source=source)
        return self._edit(name, lambda edited: edited.leaving_out(source, out), said)

    def _replace(self, name: str, find: str, replacement: str) -> tuple[str, Any]:
        return self._edit(name, lambda edited: edited.replaced(find, replacement))

    def _prepend(self, name: str, text: str) -> tuple[str, Any]:
        return self._edit(name, lambda edited: edited.prepended(text))

    def _edit(self, name: str, edit: Any, said: str | None = None) -> tuple[str, Any]:
        before = self._read(name)
        try:
            after: EditedSet = edit(before)
        except DatasetError as error:
            return texts.NOT_SAVED.format(reason=escaped(str(error))), gr.skip()
        after.write()
        return escaped(said or texts.EDITED.format(count=after.changed(before))), _pictures(after)

    def _whole(self, name: str | None) -> str:
        return framed(self._folder(name) / GALLERY_FILE) if name else ""


def settings_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return the settings that a set was prepared with, and the preset's. Raises ConfigError."""
    path = workspace.picture_set(name) / SETTINGS_FILE
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return loaded


def _shown_examples(edited: EditedSet) -> list[Example]:
    return [*edited.dataset.examples, *edited.left_out]


def _pictures(edited: EditedSet) -> list[tuple[str, str]]:
    folder = edited.dataset.folder
    marked = [("", example) for example in edited.dataset.examples]
    marked += [(texts.LEFT_OUT_MARK, example) for example in edited.left_out]
    return [(str(folder / example.views[0].file), mark + example.caption) for mark, example in marked]


def _refused_list(refused: Sequence[Rejected]) -> str:
    """HTML: a line for each file with the reason; nothing without files."""
    lines = "".join(
        f"<li><b>{html.escape(item.source)}</b>"
        f"<p>{html.escape(item.reason.removeprefix(f'{Path(item.source).name}: '))}</p></li>"
        for item in refused
    )
    return f'<h3>{texts.REFUSED}</h3><ul class="queue">{lines}</ul>' if lines else ""


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
