"""Tests of what the tabs return, without a browser."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="requirements-studio.txt is not installed")

import gradio as gr
from PIL import Image

from job.progress import Progress
from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from preprocess.prepare import prepare
from settings.training import build_config
from studio.estimates import memory
from studio.jobs.queue import JobQueue
from studio.pictures.stored import note_settings, note_sources
from studio.tabs import picture_editor
from studio.tabs.picture_editor import PictureEditor
from studio.tabs.train import TrainTab
from studio.tabs.try_out import TryTab
from studio.workspace import Workspace

SETTINGS = {
    "base_model": "mini-sdxl",
    "captioner": "none",
    "resolution": 64,
    "trigger_word": "TOK",
    "class_word": "dog",
}
NAME = "dogs"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with a prepared set of one image, 128 × 64."""
    workspace = Workspace(tmp_path)
    photos = tmp_path / "uploads"
    photos.mkdir()
    Image.new("RGB", (128, 64), (200, 40, 40)).save(photos / "dog.png")
    config = build_config(SETTINGS | {"aspect_ratio_bucketing": False}).preparation
    folder = workspace.picture_set(NAME)
    prepare([photos], config, folder / "dataset")
    note_settings(folder, SETTINGS)
    note_sources(folder, [photos])
    return workspace


@pytest.fixture
def editor(workspace: Workspace) -> PictureEditor:
    with gr.Blocks(analytics_enabled=False):
        return PictureEditor(workspace, gr.Dropdown([]))


def dataset(workspace: Workspace) -> PreparedDataset:
    return PreparedDataset.read(workspace.picture_set(NAME) / "dataset")


def test_cards_and_settings_say_what_they_need(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def predicted(values: memory.Settings, images: int) -> dict[str, str]:
        config = build_config(values)
        return {memory.key(config, images): f"memory: {config.rank} GB"}

    monkeypatch.setattr(memory, "by_process", predicted)
    with gr.Blocks(analytics_enabled=False):
        tab = TrainTab(workspace, JobQueue(workspace.queue, workspace.runs))
    ((label, preset),) = tab.show_cards(NAME, 2.0)["choices"]
    lines = label.splitlines()
    assert (preset, lines[0], lines[2]) == ("demo", "demo", "memory: 16 GB")
    assert "(400 steps)" in lines[3] and lines[4] == "cost: unknown, because the time is unknown"
    fields = dict.fromkeys(tab.form.names, "") | {"rank": "32", "max_train_steps": "50"}
    first, last = tab.estimate(NAME, None, *fields.values())
    assert first.startswith("- memory: is being computed\n- time: unknown")
    assert last.startswith("- memory: 32 GB\n- time: unknown") and "50 steps" in last
    (wrong,) = tab.estimate(NAME, None, *(fields | {"rank": "0"}).values())
    assert wrong.startswith("No estimate yet: rank: ")
    assert "Select a set of images" in tab._start(None, "", *fields.values())[0]
    assert "rank: " in tab._start(NAME, "", *(fields | {"rank": "0"}).values())[0]


def test_a_crop_is_moved_and_shown(editor: PictureEditor, workspace: Workspace) -> None:
    said, _, picture, facts, left, top, width = editor._move(NAME, "dog.png", 0, 0, 64)
    assert (said, left, top, width) == ("dog.png was cropped again.", 0, 0, 64)
    assert isinstance(picture, Image.Image) and "around: hand" in facts
    assert round(dataset(workspace).examples[0].views[0].crop.window().left) == 0
    for wrong in (("", 0, 0, 64), ("cat.png", 0, 0, 64), ("dog.png", 0, None, 64)):
        answer = editor._move(NAME, *wrong)
        assert "Select an image in the gallery" in answer[0] and len(answer) == 7


def test_captions_are_made_again(editor: PictureEditor, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def captions(
        folder: Path, names: list[str], settings: object, captioner: str
    ) -> Iterator[Progress | dict[str, str]]:
        if captioner == "broken":
            raise DatasetError("broken: cannot be loaded")
        yield Progress("captioning 1 of 1", 1.0)
        yield dict.fromkeys(names, f"TOK by {captioner}")

    monkeypatch.setattr(picture_editor, "captions_of", captions)
    *progress, (said, _, caption) = editor._caption(NAME, "blip", "dog.png")
    assert (len(progress), said, caption) == (1, "1 captions changed and saved.", "TOK by blip")
    example = dataset(workspace).examples[0]
    assert (example.caption, example.caption_source) == ("TOK by blip", "blip")
    assert "broken: cannot be loaded" in list(editor._caption(NAME, "broken", None))[-1][0]
    assert "Select a captioner" in next(editor._caption(NAME, None, None))[0]
    assert "Select an image" in next(editor._caption(NAME, "blip", ""))[0]


def test_before_and_after_lie_over_each_other(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(workspace.queue, workspace.runs)
    with gr.Blocks(analytics_enabled=False):
        tab = TryTab(workspace, queue)
    lora, asked = "dogs/weights.safetensors", []

    def image(weights: Path, prompt: str, scale: str, seed: int, steps: int, folder: Path) -> Path:
        asked.append((weights, prompt, scale, seed))
        path = tmp_path / f"{prompt}-{scale}.png"
        Image.new("RGB", (8, 8)).save(path)
        return path

    monkeypatch.setattr(tab, "choices", lambda: [("dogs", lora)])
    monkeypatch.setattr(tab, "_image", image)
    steps = list(tab._compare(lora, "cat\ndog", "0.5 0.8", 7, 0))
    file = workspace.runs / lora
    assert asked == [(file, prompt, scale, 7) for prompt in ("cat", "dog") for scale in ("0", "0.8")]
    assert [column["visible"] for *_, column, _ in steps] == [False, False, True, True, True]
    sliders = [slider for *_, slider in steps if slider != gr.skip()]
    assert [slider["value"] for slider in sliders] == [(str(tmp_path / "cat-0.png"), str(tmp_path / "cat-0.8.png"))]
    said, _, pairs, *_ = steps[-1]
    assert said.startswith("4 images")
    chosen = tab._choose_pair(pairs, gr.SelectData(None, {"index": 3, "value": None}))
    assert chosen["value"] == (str(tmp_path / "dog-0.png"), str(tmp_path / "dog-0.8.png"))
    assert chosen["label"].endswith("0.8: dog")
    assert tab._choose_pair(pairs[:1], gr.SelectData(None, {"index": 3, "value": None})) == gr.skip()
    (said, _, pairs, column, _), *_ = tab._compare(lora, "cat", "0", 7, 0)
    assert "scale other than 0" in said and pairs == [] and not column["visible"]
    *_, (_, _, pairs, column, _) = tab._draw(lora, "cat", "1", "scale", 7, 0)
    assert pairs == [] and not column["visible"]


def test_the_predictors_warnings_are_on_the_page(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gr.Blocks(analytics_enabled=False):
        tab = TryTab(workspace, JobQueue(workspace.queue, workspace.runs))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def predict(inputs: object, generation: SimpleNamespace, folder: Path, **options: object) -> SimpleNamespace:
        generation.say("1 LoRA applied in 0.1 s")
        generation.say("warning: the prompt does not contain the trigger word TOK")
        return SimpleNamespace(paths=[tmp_path / "a.png"])

    monkeypatch.setattr("sampler.generation.Generation", lambda say: SimpleNamespace(say=say))
    monkeypatch.setattr("service.prediction_inputs.predict", predict)
    lora = "dogs/weights.safetensors"
    monkeypatch.setattr(tab, "choices", lambda: [("dogs", lora)])
    for _ in range(2):
        *_, (said, *_) = tab._draw(lora, "cat\ndog", "1", "scale", None, None)
        assert said.startswith("2 images") and said.count("does not contain the trigger word TOK") == 1
        assert "applied" not in said
