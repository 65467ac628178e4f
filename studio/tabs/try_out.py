"""The tab Try: grids of prompts and scales or checkpoints, files to download, and instructions for other tools."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from job.output_folder import OutputFolder
from studio import texts
from studio.framed import escaped
from studio.grid import BY_CHECKPOINT, BY_SCALE, WEIGHTS, Column, Picture, columns_of, compared_scales, pairs_of
from studio.jobs.queue import JobQueue
from studio.workspace import Workspace, free_folder

if TYPE_CHECKING:
    from sampler.generation import Generation

MOST_IMAGES = 64
"""Largest number of images of a grid."""
FORMATS = ("kohya", "diffusers", "cog-sdxl", "bundle", "embeddings")
SUFFIXES = {"cog-sdxl": ".tar"}
WARNING = "warning: "
"""Prefix of the predictor's warnings; its other messages are not shown."""
Pair = tuple[str, str, str]
"""Label of the slider, and the files before and after."""


class TryTab:
    """The components and their actions. The base model stays loaded between grids."""

    def __init__(self, workspace: Workspace, queue: JobQueue) -> None:
        self._workspace, self._queue = workspace, queue
        self._generation: Generation | None = None
        self._notes: list[str] = []
        gr.Markdown(texts.TRY_LEAD)
        with gr.Row(equal_height=False):
            self.lora = gr.Dropdown(self.choices(), value=None, label=texts.LORA, info=texts.LORA_INFO, elem_id="lora")
            self.prompts = gr.Textbox(label=texts.PROMPTS, lines=3, elem_id="prompts")
        with gr.Row(equal_height=False):
            self.scales = gr.Textbox("1", label=texts.SCALES, info=texts.SCALES_INFO, elem_id="scales")
            self.seed = gr.Number(0, label=texts.SEED, info=texts.SEED_INFO, precision=0, minimum=0, elem_id="seed")
            self.steps = gr.Slider(0, 100, value=0, step=1, label=texts.STEPS, elem_id="steps")
        self.columns = gr.Radio(
            [(texts.BY_SCALE, BY_SCALE), (texts.BY_CHECKPOINT, BY_CHECKPOINT)], value=BY_SCALE, label=texts.COLUMNS,
            info=texts.COLUMNS_INFO, elem_id="columns",
        )  # fmt: skip
        with gr.Row():
            self.draw = gr.Button(texts.DRAW, variant="primary", elem_id="draw")
            self.compare = gr.Button(texts.COMPARE, elem_id="compare")
        gr.Markdown(texts.COMPARED_INFO)
        self.status = gr.Markdown(elem_id="draw-status")
        self.pairs = gr.State([])
        with gr.Column(visible=False) as self.comparison:
            self.slider = gr.ImageSlider(
                type="filepath", interactive=False, buttons=["fullscreen"], elem_id="before-after"
            )
            self.place = gr.Slider(0, 100, value=50, step=1, label=texts.PLACE, elem_id="place")
        self.images = gr.Gallery(
            label=texts.GRID, columns=1, height="auto", interactive=False, object_fit="contain",
            buttons=["download", "fullscreen"], elem_id="images",
        )  # fmt: skip
        with gr.Accordion(texts.DOWNLOAD, open=False):
            with gr.Row(equal_height=False):
                self.format = gr.Dropdown(
                    [(texts.OWN_FORMAT, ""), *FORMATS], value="", label=texts.FORMAT, elem_id="format"
                )
                self.make = gr.Button(texts.MAKE_FILE, elem_id="make-file")
            self.file = gr.File(label=texts.FILE, interactive=False, elem_id="made-file")
        with gr.Accordion(texts.USE, open=False):
            self.workflow = gr.DownloadButton(texts.WORKFLOW, interactive=False, elem_id="workflow")
            self.use = gr.Markdown(elem_id="use")
        self._connect()

    def _connect(self) -> None:
        inputs = [self.lora, self.prompts, self.scales, self.columns, self.seed, self.steps]
        outputs = [self.status, self.images, self.pairs, self.comparison, self.slider]
        one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "drawing"}
        self.draw.click(self._draw, inputs, outputs, **one_at_a_time)
        inputs = [self.lora, self.prompts, self.scales, self.seed, self.steps]
        self.compare.click(self._compare, inputs, outputs, **one_at_a_time)
        self.images.select(self._choose_pair, self.pairs, self.slider, show_progress="hidden")
        self.place.input(  # Gradio's own divider can only be moved by mouse or touch
            lambda place: gr.update(slider_position=place), self.place, self.slider, show_progress="hidden",
            trigger_mode="always_last",
        )  # fmt: skip
        self.make.click(self._file, [self.lora, self.format], self.file)
        self.lora.change(self._use, self.lora, [self.use, self.prompts, self.workflow])

    def choices(self) -> list[tuple[str, str]]:
        """Return the results and checkpoints of all runs for the list, the newest run first."""
        found = []
        for job in reversed(self._queue.jobs()):
            output = OutputFolder(job.output)
            if output.weights.is_file():
                found.append((job.name, self._name(output.weights)))
            for path in sorted(output.checkpoints.glob(f"step_*/{WEIGHTS}")):
                step = int(path.parent.name.removeprefix("step_"))
                found.append((f"{job.name}, {texts.SAMPLES_OF.format(step=step)}", self._name(path)))
        return found

    def _name(self, path: Path) -> str:
        return path.relative_to(self._workspace.runs).as_posix()

    def _weights(self, lora: str | None) -> Path:
        """Return the file of an entry of the list. Raises gr.Error for any other."""
        if not lora or lora not in (value for _, value in self.choices()):
            raise gr.Error(texts.NO_LORA)
        return self._workspace.runs / lora

    def _draw(
        self, lora: str | None, prompts: str, scales: str, kind: str, seed: float | None, steps: float | None
    ) -> Iterator[Any]:
        """Generate a grid, and show each image as soon as it is finished. Cleared numbers are None, and count as 0."""
        try:
            columns = columns_of(self.choices(), self._name(self._weights(lora)), scales.split(), kind)
        except ValueError as error:
            yield texts.NOT_DRAWN.format(reason=error), [], *_no_pairs()
            return
        for said, drawn in self._grid(prompts, columns, int(seed or 0), int(steps or 0)):
            yield said, gr.Gallery(drawn, columns=len(columns) or 1), *_no_pairs()

    def _compare(
        self, lora: str | None, prompts: str, scales: str, seed: float | None, steps: float | None
    ) -> Iterator[Any]:
        """Generate each prompt at scale 0 and with the LoRA, and show the first of these pairs with a slider."""
        try:
            both = compared_scales(scales.split())
        except ValueError as error:
            yield texts.NOT_DRAWN.format(reason=error), [], *_no_pairs()
            return
        columns = columns_of(self.choices(), self._name(self._weights(lora)), both, BY_SCALE)
        shown = False
        for said, drawn in self._grid(prompts, columns, int(seed or 0), int(steps or 0)):
            rows = zip(_lines(prompts), pairs_of([path for path, _ in drawn]), strict=False)
            found = [(texts.COMPARED.format(after=both[1], prompt=prompt), *files) for prompt, files in rows]
            slider = _slider(found[0]) if found and not shown else gr.skip()
            shown = bool(found)
            yield said, gr.Gallery(drawn, columns=len(columns)), found, gr.update(visible=shown), slider

    def _choose_pair(self, pairs: Sequence[Pair], event: gr.SelectData) -> Any:
        """Return the pair of the selected image, if it is complete."""
        row = event.index // 2
        return _slider(pairs[row]) if row < len(pairs) else gr.skip()

    def _grid(
        self, prompts: str, columns: Sequence[Column], seed: int, steps: int
    ) -> Iterator[tuple[str, list[Picture]]]:
        """Generate a row for each prompt, and yield the message and all images so far."""
        cells = [(prompt, column) for prompt in _lines(prompts) for column in columns]
        if not cells or len(cells) > MOST_IMAGES:
            yield texts.NOT_DRAWN.format(reason=texts.GRID_SIZE.format(most=MOST_IMAGES)), []
            return
        folder = free_folder(self._workspace.images, self._weights(columns[0].weights).parent.name)
        drawn: list[Picture] = []
        self._notes.clear()
        for number, (prompt, column) in enumerate(cells, start=1):
            yield texts.DRAWING.format(number=number, total=len(cells)), drawn
            try:
                path = self._image(
                    self._weights(column.weights), prompt, column.scale, seed, steps, folder / f"{number:02d}"
                )
            except Exception as error:
                if not _is_expected(error):
                    raise
                yield texts.NOT_DRAWN.format(reason=escaped(str(error))) + self._warnings(), drawn
                return
            drawn.append((str(path), f"{column.label} · {prompt}"))
        yield texts.DRAWN.format(count=len(drawn), folder=escaped(str(folder))) + self._warnings(), drawn

    def _warnings(self) -> str:
        """Return the warnings of the generated images, each once, as a list; "" without any."""
        lines = dict.fromkeys(line for line in self._notes if line.startswith(WARNING))
        return "".join(f"\n\n- {escaped(line)}" for line in lines)

    def _image(self, weights: Path, prompt: str, scale: str, seed: int, steps: int, folder: Path) -> Path:
        """Generate one image with the code of predict.py."""
        from sampler.generation import Generation  # deferred: torch and diffusers take seconds to import
        from service.prediction_inputs import PredictionInputs, predict

        if self._generation is None:
            self._generation = Generation(self._notes.append)
        inputs = PredictionInputs(
            prompt, lora=json.dumps([str(weights)]), lora_scale=scale, seed=seed, num_inference_steps=steps or None
        )
        prediction = predict(
            inputs, self._generation, folder, local_files=True, say=lambda line: None, metric=lambda name, value: None
        )
        return prediction.paths[0]

    def _file(self, lora: str | None, format_name: str) -> str:
        """Return the file in a format, written to its own folder."""
        weights = self._weights(lora)
        if not format_name:
            return str(weights)
        from artifact.conversion.convert import convert
        from artifact.errors import ArtifactError

        self._workspace.cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._workspace.cache))
        target = folder / f"{weights.parent.name}-{format_name}{SUFFIXES.get(format_name, '.safetensors')}"
        try:
            convert(weights, target, format_name)
        except ArtifactError as error:
            raise gr.Error(str(error)) from error
        return str(target)

    def _use(self, lora: str | None) -> tuple[str, Any, Any]:
        """Return the instructions of the report, a prompt with the trigger word, and the workflow."""
        nothing = texts.NO_USE, gr.skip(), gr.DownloadButton(value=None, interactive=False)
        if not lora:
            return nothing
        output = OutputFolder(self._workspace.runs / Path(self._name(self._weights(lora))).parts[0])
        if not output.report.is_file():
            return nothing
        from job.report.usage import recipes_of_report

        summary = json.loads(output.report.read_text(encoding="utf-8"))
        parts = [
            f"#### {recipe.tool}\n\n{escaped(recipe.note)}\n\n````\n{recipe.text}\n````"
            for recipe in recipes_of_report(summary)
        ]
        there = output.workflow.is_file()
        workflow = gr.DownloadButton(value=str(output.workflow) if there else None, interactive=there)
        return "\n\n".join(parts), summary["config"]["validation_prompt"], workflow


def _lines(prompts: str) -> list[str]:
    return [line.strip() for line in prompts.splitlines() if line.strip()]


def _slider(pair: Pair) -> Any:
    label, before, after = pair
    return gr.update(value=(before, after), label=label)


def _no_pairs() -> list[Any]:
    """Return empty components."""
    return [[], gr.update(visible=False), gr.skip()]


def _is_expected(error: Exception) -> bool:
    from artifact.errors import ArtifactError
    from families.errors import BaseModelError
    from fetching.errors import DownloadError
    from sampler.request import RequestError

    return isinstance(error, ArtifactError | BaseModelError | DownloadError | RequestError)
