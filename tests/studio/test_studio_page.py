"""The studio in a real browser: from dropped files to a LoRA and a picture made with it."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from preprocess.dataset import PreparedDataset
from studio.jobs.queue import JobQueue
from studio.workspace import Workspace
from tests.conftest import EXAMPLE
from tests.studio.studio_page import Page, served

if TYPE_CHECKING:
    from tests.browser import Browser

pytest.importorskip("gradio", reason="requirements-studio.txt is not installed")
pytest_plugins = ["tests.browser"]
CAPTION = "a photo of TOK under a blue <b>moon</b>"


@pytest.fixture
def upload(tmp_path: Path) -> list[Path]:
    """Two pictures of the example with captions in a zip, and a file that only has the name of a picture."""
    path = tmp_path / "robots.zip"
    with zipfile.ZipFile(EXAMPLE) as example, zipfile.ZipFile(path, "w") as archive:
        for name in ("robot_0.png", "robot_0.txt", "robot_1.png", "robot_1.txt"):
            archive.writestr(name, example.read(name))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    return [path, broken]


@pytest.mark.slow
def test_from_dropped_files_to_a_picture_of_the_trained_lora(
    browser: "Browser", tmp_path: Path, upload: list[Path]
) -> None:
    workspace = Workspace(tmp_path / "studio")
    queue = JobQueue(workspace.queue, workspace.runs)
    with served(workspace.root) as address:
        page = Page(browser, address)
        page.open()
        prepare(page, upload)
        edit_captions(page)
        start_two_runs(page, queue)
        refused = requests.post(
            f"{address}/gradio_api/queue/join", headers={"Origin": "http://other.example"}, timeout=9
        )
        assert refused.status_code == 403
        page.tab("Watch")
        page.wait_for_text("#watch", "training", 60)
    with served(workspace.root) as address:  # killed and opened again: the training goes on
        page = Page(browser, address)
        page.open()
        page.tab("Watch")
        page.wait_for_text("#watch", "first", 60)
        page.wait_for_text("#watch", "running", 10)
        assert queue.wait_for("000001", 300).state == "done"
        draw(page, workspace)
        fits_a_phone(page)
        page.leave()
    assert queue.wait_for("000002", 1).state == "cancelled"
    captions = [example.caption for example in PreparedDataset.read(queue.get("000001").dataset).examples]
    assert captions[0] == f"one day, {CAPTION}" and captions[1].startswith("one day, ")


def prepare(page: Page, upload: list[Path]) -> None:
    page.upload(*upload)
    page.choose("preset", "demo")
    page.wait_for_value("setting-base_model", "mini-sdxl")
    page.click("prepare")
    page.wait_for_text("#prepare-status", "2 pictures are prepared, 1 files are not used", 90)
    page.wait_for_text("#refused", "broken.png")
    page.wait_for_text("#refused", "not an image")


def edit_captions(page: Page) -> None:
    page.browser.wait_for("document.querySelectorAll('#crops button img').length === 2", 10)
    page.element("#crops button:has(img)").click()
    page.wait_for_text("#facts", "96 × 96")
    page.write("caption", "no trigger word")
    page.click("save-caption")
    page.wait_for_text("#edited", "must contain the trigger word TOK")
    page.write("caption", CAPTION)
    page.click("save-caption")
    page.wait_for_text("#edited", "Saved")
    page.write("prefix", "one day")
    page.click("prepend")
    page.wait_for_text("#edited", "2 captions changed")


def start_two_runs(page: Page, queue: JobQueue) -> None:
    page.tab("Train")
    page.wait_for_text("#set-facts", "2 pictures")
    page.write("setting-rank", "0")
    page.click("start")
    page.wait_for_text("#setting-rank", "greater than or equal to 1")
    page.write("setting-rank", "2")
    page.write("setting-max_train_steps", "160")
    page.write("setting-train_batch_size", "2")
    page.write("run-name", "first")
    page.click("start")
    page.wait_for_text("#start-status", "first is in the queue")
    page.write("run-name", "second")
    page.click("start")
    page.wait_for_text("#start-status", "second is in the queue")
    assert {job.name: job.state for job in queue.jobs()}["second"] == "queued"
    page.wait_for_text("#queue", "waiting")
    page.click("cancel")
    page.wait_for_text("#asked", "second")


def draw(page: Page, workspace: Workspace) -> None:
    page.tab("Try")
    page.wait_for_value("lora", "first", 20)
    page.wait_for_value("prompts", "a photo of TOK on a green background", 40)
    page.write("scales", "0 1")
    page.click("draw")
    page.wait_for_text("#draw-status", "2 pictures", 90)
    assert len(list(workspace.images.rglob("*.png"))) == 2
    page.browser.wait_for("document.querySelectorAll('#images img').length >= 2", 10)


def fits_a_phone(page: Page) -> None:
    page.browser.resize(390, 844, "dark")
    for tab in ("Pictures", "Train", "Watch", "Try"):
        page.tab(tab)
        assert (tab, page.too_wide()) == (tab, [])
        assert (tab, page.unlabelled()) == (tab, [])
