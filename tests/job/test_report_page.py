"""Tests of the report's page: its contents, that no text from a run is executed, and its behaviour in a browser."""

from __future__ import annotations

import errno
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from job.progress import keep_lines
from job.report.command_line import main as report_again
from job.report.curves import curves
from job.report.frames import FRAME_SIDE, step_frames
from job.report.metrics import read_metrics, series, smoothed, steps_done
from job.report.page import write_page
from job.report.recipe import Trained, shell_text
from job.report.usage import recipes
from pages.pictures import numbered_pictures, picture_uri
from tests.fast_part import slow_but
from tests.job.report_folder import HOSTILE, make_output, save

if TYPE_CHECKING:
    from tests.browser import Browser

pytest_plugins = ["tests.browser"]

BROKEN = "return [...document.images].filter((one) => !(one.complete && one.naturalWidth)).length"
STILL = "return document.querySelector('#stills img').src"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(*make_output(tmp_path_factory.mktemp("report") / "out"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(*make_output(tmp_path_factory.mktemp("plain") / "out", evaluated=False))


def test_the_page_is_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    urls = set(re.findall(r"https?://[^\s\"'<)\\]+", text)) - {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip
    assert urls == set()
    assert HOSTILE not in text and "<style type" not in text
    assert page.stat().st_size < 2_000_000
    assert text.count('<figure class="chart"') == 8


def test_unknown_rows_and_an_unfinished_line_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"note": "x"}\n{"step": 3, "losses": {"a": 1, "b": "?"}}\n{"st')
    rows = read_metrics(path)
    assert series(rows, "loss") == {"loss": ([1], [2.0])} and series(rows, "losses") == {"a": ([3], [1.0])}
    assert [curve.title for curve in curves(rows, None)] == ["Training loss"]
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert read_metrics(tmp_path / "missing.jsonl") == []


def test_the_steps_are_those_of_the_run(tmp_path: Path) -> None:
    """A time limit can end a run before its planned steps. Older reports do not have the number of steps."""
    output, dataset = make_output(tmp_path / "run")
    for steps, shown in ((None, 200), (17, 17)):
        report = json.loads(output.report.read_text("utf-8")) | ({} if steps is None else {"steps": steps})
        output.report.write_text(json.dumps(report), "utf-8")
        assert f'"steps": {shown},' in write_page(output, dataset).read_text("utf-8")


def test_on_a_full_disk_metrics_and_page_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a reader nor a resumed run finds a part of a file."""
    output, dataset = make_output(tmp_path / "out")
    write_page(output, dataset)
    before = {path: path.read_bytes() for path in output.path.iterdir() if path.is_file()}

    def half_written(self: Path, text: str, **options: Any) -> None:
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half_written)
    for write in (lambda: keep_lines(output.metrics, 100), lambda: write_page(output, dataset)):
        with pytest.raises(OSError, match="No space"):
            write()
    assert {path: path.read_bytes() for path in output.path.iterdir() if path.is_file()} == before


def test_recipes_hold_prompt_scale_and_trigger() -> None:
    trained = Trained("base/model", "StableDiffusionXLPipeline", ["clip_l", "clip_g"], "lora", ["TOK"], "TOK's hat")
    by_tool = {recipe.tool: recipe for recipe in recipes(trained, 0.8)}
    assert set(by_tool) == {"Cog", "Replicate", "ComfyUI", "A1111, Forge", "diffusers"}
    assert "'TOK'\\''s hat'" in by_tool["Cog"].text
    assert by_tool["A1111, Forge"].text == "TOK's hat <lora:TOK_lora:0.8>"
    for tool in ("diffusers", "Replicate"):
        compile(by_tool[tool].text, "recipe", "exec")


def test_nothing_in_a_prompt_is_executed_by_a_shell() -> None:
    """The prompt of a ControlNet is a caption, which may come from others."""
    prompt = "it's $(touch x) \\n"
    for adapter in ("lora", "controlnet"):
        trained = Trained("my base.safetensors", "StableDiffusionXLPipeline", [], adapter, [], prompt)
        text = recipes(trained, 1.0)[0].text
        assert f"prompt={shell_text(prompt)} " in text and f"predict.py {shell_text(prompt)} " in text
        assert adapter == "lora" or "--base_model 'my base.safetensors' " in text
    words = shlex.split(f"echo {shell_text(prompt)}")
    assert words == ["echo", prompt]


def test_several_trigger_words_have_an_embedding_each_in_the_recipes() -> None:
    """These tools insert all rows of a file. Layers of trained text encoders are applied, too."""
    trained = Trained("base/model", "StableDiffusionXLPipeline", ["clip_l"], "lora", ["TOK", "TOK2"], "TOK2 and TOK",
                      text_encoders=True)  # fmt: skip
    by_tool = {recipe.tool: recipe for recipe in recipes(trained, 0.8)}
    assert by_tool["ComfyUI"].text == "embedding:TOK2 and embedding:TOK"
    assert "the files of embeddings/ to models/embeddings/." in by_tool["ComfyUI"].note
    assert "strength_clip 0.8" in by_tool["ComfyUI"].note
    assert by_tool["A1111, Forge"].text == "TOK2 and TOK <lora:TOK_lora:0.8>"


def test_only_tools_that_open_the_file_have_a_recipe() -> None:
    """diffusers, A1111 and Forge cannot load LoRAs of a prior."""
    trained = Trained("base/model", "StableCascadePipeline", ["clip_g"], "lora", ["TOK"], "TOK's hat")
    assert [recipe.tool for recipe in recipes(trained, 0.8)] == ["Cog", "Replicate", "ComfyUI"]


def test_an_edit_by_perfusion_has_the_recipe_of_the_only_tool_that_opens_it() -> None:
    trained = Trained("base/model", "StableDiffusionXLPipeline", ["clip_l"], "perfusion", ["TOK"], "TOK's hat")
    assert [recipe.tool for recipe in recipes(trained, 0.8)] == ["Cog", "Replicate"]


@pytest.mark.parametrize(
    ("adapter", "pipeline", "tools"),
    [
        ("lora", "StableDiffusionXLPipeline", {"ComfyUI", "A1111, Forge", "diffusers"}),
        ("lokr", "StableDiffusionXLPipeline", {"ComfyUI", "A1111, Forge"}),
        ("dora", "StableDiffusionXLPipeline", {"ComfyUI"}),
        ("dora", "FluxPipeline", set()),
        ("oft", "StableDiffusionXLPipeline", set()),
        ("t-lora", "StableDiffusionXLPipeline", set()),
        ("none", "StableDiffusionXLPipeline", set()),
    ],
)
def test_files_that_a_tool_does_not_support_are_converted_first(adapter: str, pipeline: str, tools: set[str]) -> None:
    """As in the table of docs/artifact.md."""
    for encoders in (["clip_l"], []):
        trained = Trained("base/model", pipeline, encoders, adapter, ["TOK"], "a TOK")
        others = [recipe for recipe in recipes(trained, 0.8) if recipe.tool not in ("Cog", "Replicate")]
        if adapter == "none" and not encoders:
            continue
        assert {recipe.tool for recipe in others if recipe.as_it_is} == tools
        for recipe in others:
            converted = f"resize weights.safetensors plain-lora.safetensors --rank 64 --base {trained.base_model}"
            assert (converted in recipe.note) == (not recipe.as_it_is and adapter != "none")
            assert adapter != "none" or "lora" not in recipe.text


def test_more_than_a_hundred_samples_keep_their_order(tmp_path: Path) -> None:
    output, _ = make_output(tmp_path / "out")
    folder = output.samples_of_step(5)
    for number in (99, 100, 101, 11):
        save(folder / f"{number:02d}.png", (number, 0, 0))
    assert [path.stem for path in numbered_pictures(folder)] == ["11", "99", "100", "101"]
    output.step_prompts.write_text("[]")
    frames = step_frames(output, None)["frames"]
    assert frames[-1]["pictures"] == [
        picture_uri(folder / f"{number}.png", FRAME_SIDE) for number in (11, 99, 100, 101)
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", slow_but([360], [360, 1280]))
def test_all_is_shown_without_complaint(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, 800, scheme)
    browser.scroll_through()
    browser.wait_for("[...document.images].every((one) => one.complete)")
    assert browser.run(BROKEN) == 0 and browser.run("return document.images.length") > 10
    assert browser.too_wide() == []
    assert browser.faint_texts() == [] and browser.small_texts() == []
    assert browser.complaints() == []


def test_verdict_and_foreign_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert (
        "overfit after step 100; step 100 is returned. Use scale 1."
        in browser.driver.find_element(By.TAG_NAME, "h1").text
    )
    assert not browser.run("return document.querySelector('img[src=x], li script')")
    assert HOSTILE in browser.driver.find_element(By.ID, "warned").text
    assert browser.driver.find_element(By.CSS_SELECTOR, "tr.returned").text.startswith("100 1")


def test_the_slider_goes_through_the_steps_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    slider = browser.driver.find_element(By.ID, "slider")
    shown = browser.driver.find_element(By.ID, "stepShown")
    assert shown.text == "step 100"  # the returned step
    before = browser.run(STILL)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert shown.text == "step 150" and browser.run(STILL) != before
    slider.send_keys(Keys.HOME)
    assert shown.text == "base model" and slider.get_attribute("aria-valuetext") == "base model"


def test_tabs_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.driver.find_element(By.ID, "tab-0").click()
    ActionChains(browser.driver).send_keys(Keys.ARROW_LEFT).perform()
    visible = "return [...document.querySelectorAll('.panel')].filter((one) => !one.hidden).map((one) => one.id)"
    assert browser.run(visible) == ["panel-4"] and browser.run("return document.activeElement.id") == "tab-4"


def test_more_terms_than_colours_are_all_drawn() -> None:
    terms = {f"term_{index}": 0.1 * index for index in range(9)}
    rows = [{"step": step, "loss": 1.0, "losses": terms} for step in (1, 2)]
    assert all(name in curves(rows, None)[0].svg for name in terms)


def test_one_prompt_is_said_once(browser: Browser, page: Path, tmp_path: Path) -> None:
    output, dataset = make_output(tmp_path / "out")
    summary = json.loads(output.report.read_text())
    summary["evaluation"]["picture_prompts"] = ["one prompt", "one prompt"]
    output.report.write_text(json.dumps(summary))
    browser.open(write_page(output, dataset))
    assert browser.run("return document.querySelectorAll('#stills p').length") == 0
    assert "“one prompt”" in browser.driver.find_element(By.ID, "through").text
    browser.open(page)
    assert browser.run("return document.querySelectorAll('#stills p').length") == 2


def test_the_theme_is_chosen(browser: Browser, page: Path) -> None:
    browser.open(page, scheme="light")
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    assert browser.run(background) == "rgb(255, 255, 255)"
    browser.driver.find_element(By.ID, "theme").click()
    assert browser.run(background) == "rgb(21, 21, 20)"
    line = "return getComputedStyle(document.querySelector('.chart path[style*=ink]')).stroke"
    assert browser.run(line) == "rgb(238, 236, 231)"  # the charts have the same theme


def test_without_an_evaluation_the_page_says_so(browser: Browser, plain: Path) -> None:
    browser.open(plain, 360)
    assert "not evaluated" in browser.driver.find_element(By.TAG_NAME, "h1").text
    assert not browser.driver.find_element(By.ID, "scores").is_displayed()
    assert browser.complaints() == [] and browser.overflowing() == []


@pytest.mark.parametrize("text", ['{"config": {', '{"config": {}}', "[]"])
def test_a_damaged_report_is_named(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, dataset = make_output(tmp_path / "out")
    monkeypatch.setattr("preprocess.dataset.PreparedDataset.read", lambda folder: dataset)
    output.report.write_text(text)
    assert report_again([str(output.path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "its files are damaged or of another version" in told


def test_the_steps_of_a_run_that_stopped_early_are_those_that_it_did(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps_done(path, 1000) == 1000
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}\n{"ste')
    assert steps_done(path, 1000) == 2


def test_a_folder_that_is_no_output_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_again([str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("has no report.json; give the output folder of a finished training\n")
