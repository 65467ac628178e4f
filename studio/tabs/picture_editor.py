"""The editor of a prepared dataset on the tab Images: captions, crops, images left out. Edits are saved at once."""

import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from job.output_folder import OutputFolder
from preprocess.captioners.registry import CAPTIONERS
from preprocess.dataset import Example, Rejected
from preprocess.errors import DatasetError
from preprocess.gallery.page import GALLERY_FILE
from settings.public import public_name
from settings.record import ConfigError
from settings.training import build_config
from studio import texts
from studio.framed import escaped, framed
from studio.pictures.captioning import captions_of
from studio.pictures.crops import with_crop
from studio.pictures.edits import EditedSet
from studio.pictures.shown import facts, picture_with_crop
from studio.pictures.stored import noted_settings, noted_sources
from studio.workspace import Workspace


class PictureEditor:
    """The components and their actions. `stored`: the list from which a set is selected."""

    def __init__(self, workspace: Workspace, stored: Any) -> None:
        self._workspace, self._stored = workspace, stored
        self.refused = gr.HTML(elem_id="refused")
        self.warnings = gr.Markdown(elem_id="picture-warnings")
        self.chosen = gr.State("")
        with gr.Row(equal_height=False, visible=False) as self.editor:
            with gr.Column(scale=3, min_width=300):
                self.gallery = gr.Gallery(
                    label=texts.GALLERY, columns=4, height="auto", allow_preview=False, interactive=False,
                    object_fit="contain", elem_id="crops", buttons=[],
                )  # fmt: skip
                with gr.Accordion(texts.ALL_CAPTIONS, open=True):
                    self._all_captions()
            with gr.Column(scale=2, min_width=300):
                self._one_picture()
        with gr.Accordion(texts.WHOLE_GALLERY, open=False):
            self.show_gallery = gr.Button(texts.SHOW_GALLERY)
            self.whole = gr.HTML()
        self._connect()

    def _all_captions(self) -> None:
        with gr.Row():
            self.find = gr.Textbox(label=texts.FIND, elem_id="find")
            self.replacement = gr.Textbox(label=texts.REPLACEMENT, elem_id="replacement")
        self.replace = gr.Button(texts.REPLACE, elem_id="replace")
        self.prefix = gr.Textbox(label=texts.PREPEND, elem_id="prefix")
        self.prepend = gr.Button(texts.DO_PREPEND, elem_id="prepend")
        self.captioner = gr.Dropdown(
            list(CAPTIONERS), value=None, allow_custom_value=True, label=texts.CAPTIONER, info=texts.CAPTIONER_INFO,
            elem_id="captioner",
        )  # fmt: skip
        with gr.Row():
            self.caption_one = gr.Button(texts.CAPTION_ONE, elem_id="caption-one")
            self.caption_all = gr.Button(texts.CAPTION_ALL, elem_id="caption-all")

    def _one_picture(self) -> None:
        self.picture = gr.Image(
            label=texts.ONE_PICTURE, interactive=False, type="pil", height=320, buttons=[], elem_id="picture"
        )
        self.facts = gr.Markdown(texts.NO_PICTURE, elem_id="facts")
        self.caption = gr.Textbox(label=texts.CAPTION, info=texts.CAPTION_INFO, lines=3, elem_id="caption")
        self.save = gr.Button(texts.SAVE_CAPTION, variant="primary", elem_id="save-caption")
        self.out = gr.Checkbox(label=texts.LEAVE_OUT, elem_id="leave-out")
        with gr.Accordion(texts.CROP, open=False, elem_id="crop-place"):
            with gr.Row():
                self.place = [
                    gr.Number(label=label, precision=0, minimum=0, min_width=80, elem_id=f"crop-{name}")
                    for name, label in (
                        ("left", texts.CROP_LEFT), ("top", texts.CROP_TOP), ("width", texts.CROP_WIDTH)
                    )
                ]  # fmt: skip
            self.move = gr.Button(texts.MOVE_CROP, elem_id="move-crop")
        self.edited = gr.Markdown(elem_id="edited")

    def _connect(self) -> None:
        stored = self._stored
        one = [self.chosen, self.picture, self.facts, self.caption, self.out, *self.place]
        stored.change(self._opened, stored, [self.editor, self.gallery, self.refused, self.warnings, *one])
        self.gallery.select(self._choose, stored, one, show_progress_on=self.picture)
        edited = [self.edited, self.gallery]
        self.save.click(self._save, [stored, self.chosen, self.caption], edited)
        self.out.input(self._leave_out, [stored, self.chosen, self.out], edited)
        self.replace.click(self._replace, [stored, self.find, self.replacement], edited)
        self.prepend.click(self._prepend, [stored, self.prefix], edited)
        self.caption_one.click(
            lambda name, chosen, captioner: (yield from self._caption(name, captioner, chosen)),
            [stored, self.chosen, self.captioner], [*edited, self.caption],
        )  # fmt: skip
        self.caption_all.click(
            lambda name, captioner: (yield from self._caption(name, captioner, None)),
            [stored, self.captioner], [*edited, self.caption],
        )  # fmt: skip
        moved = [*edited, self.picture, self.facts, *self.place]
        self.move.click(self._move, [stored, self.chosen, *self.place], moved, show_progress_on=self.picture)
        self.show_gallery.click(self._whole, stored, self.whole)

    def _set(self, name: str) -> Path:
        return self._workspace.picture_set(name)

    def _folder(self, name: str) -> Path:
        return OutputFolder(self._set(name)).dataset

    def _read(self, name: str | None) -> EditedSet:
        """Raises gr.Error, which the page shows."""
        try:
            return EditedSet.read(self._folder(name or ""))
        except (ConfigError, DatasetError) as error:
            raise gr.Error(str(error)) from error

    def _opened(self, name: str | None) -> list[Any]:
        """Return all components for a set without a selected image."""
        none_chosen = ["", None, texts.NO_PICTURE, "", False, None, None, None]
        if not name:
            return [gr.update(visible=False), [], "", "", *none_chosen]
        edited = self._read(name)
        dataset = edited.dataset
        lines = "\n".join(f"- {escaped(line)}" for line in dataset.combined_warnings)
        return [
            gr.update(visible=True),
            _pictures(edited),
            refused_list(dataset.rejected),
            f"**{texts.WARNINGS}**\n\n{lines}" if lines else "",
            *none_chosen,
        ]

    def _choose(self, name: str, event: gr.SelectData) -> list[Any]:
        edited = self._read(name)
        example = _shown_examples(edited)[event.index]
        picture, said, *place = _one(edited, example.source)
        return [example.source, picture, said, example.caption, example in edited.left_out, *place]

    def _save(self, name: str, source: str, caption: str) -> tuple[str, Any]:
        return self._edit(name, lambda edited: edited.with_caption(source, caption), texts.SAVED.format(source=source))

    def _leave_out(self, name: str, source: str, out: bool) -> tuple[str, Any]:
        said = (texts.LEFT_OUT if out else texts.TAKEN_BACK).format(source=source)
        return self._edit(name, lambda edited: edited.leaving_out(source, out), said)

    def _replace(self, name: str, find: str, replacement: str) -> tuple[str, Any]:
        return self._edit(name, lambda edited: edited.replaced(find, replacement))

    def _prepend(self, name: str, text: str) -> tuple[str, Any]:
        return self._edit(name, lambda edited: edited.prepended(text))

    def _caption(self, name: str, captioner: str | None, chosen: str | None) -> Iterator[Any]:
        """Caption the selected image again, or all, and show the progress."""
        edited = self._read(name)
        if not captioner or chosen == "":
            yield (
                texts.NOT_SAVED.format(reason=texts.NO_PICTURE if captioner else texts.NO_CAPTIONER),
                gr.skip(),
                gr.skip(),
            )
            return
        names = [example.source for example in edited.dataset.largest if chosen in (None, example.source)]
        found: dict[str, str] = {}
        try:
            for step in captions_of(self._folder(name), names, noted_settings(self._set(name)), captioner):
                if isinstance(step, dict):
                    found = step
                else:
                    yield escaped(step.message), gr.skip(), gr.skip()
        except DatasetError as error:
            yield texts.NOT_SAVED.format(reason=escaped(str(error))), gr.skip(), gr.skip()
            return
        said, pictures = self._edit(name, lambda edited: edited.captioned(found, public_name(captioner)))
        yield said, pictures, found.get(chosen, gr.skip()) if chosen else gr.skip()

    def _move(self, name: str, source: str, *place: float | None) -> list[Any]:
        """Crop the selected image at another position."""
        left, top, width = place
        known = {example.source for example in _shown_examples(self._read(name))}
        if source not in known or left is None or top is None or not width:
            return [texts.NOT_SAVED.format(reason=texts.NO_PICTURE), gr.skip(), *[gr.skip()] * 5]

        def moved(edited: EditedSet) -> EditedSet:
            config = build_config(noted_settings(self._set(name))).preparation
            return with_crop(edited, source, (left, top, width), noted_sources(self._set(name)), config)

        said, pictures = self._edit(name, moved, texts.MOVED.format(source=source))
        return [said, pictures, *_one(self._read(name), source)]

    def _edit(self, name: str, edit: Callable[[EditedSet], EditedSet], said: str | None = None) -> tuple[str, Any]:
        before = self._read(name)
        try:
            after = edit(before)
        except (ConfigError, DatasetError) as error:
            return texts.NOT_SAVED.format(reason=escaped(str(error))), gr.skip()
        after.write()
        return escaped(said or texts.EDITED.format(count=after.changed(before))), _pictures(after)

    def _whole(self, name: str | None) -> str:
        return framed(self._folder(name) / GALLERY_FILE) if name else ""


def _shown_examples(edited: EditedSet) -> list[Example]:
    return [*edited.dataset.examples, *edited.left_out]


def _pictures(edited: EditedSet) -> list[tuple[str, str]]:
    folder = edited.dataset.folder
    marked = [("", example) for example in edited.dataset.examples]
    marked += [(texts.LEFT_OUT_MARK, example) for example in edited.left_out]
    return [(str(folder / example.views[0].file), mark + example.caption) for mark, example in marked]


def _one(edited: EditedSet, source: str) -> list[Any]:
    """Return an image with its crop, its facts, and left, top and width of the crop."""
    example = edited.find(source)
    window = example.views[0].crop.window()
    said = escaped(f"{example.source}: {facts(example)}")
    place = [round(window.left), round(window.top), round(window.width)]
    return [picture_with_crop(edited.dataset.folder, example), said, *place]


def refused_list(refused: Sequence[Rejected]) -> str:
    """Return HTML with a line for each file and its reason; "" without files."""
    lines = "".join(
        f"<li><b>{html.escape(item.source)}</b>"
        f"<p>{html.escape(item.reason.removeprefix(f'{Path(item.source).name}: '))}</p></li>"
        for item in refused
    )
    return f'<h3>{texts.REFUSED}</h3><ul class="queue">{lines}</ul>' if lines else ""
