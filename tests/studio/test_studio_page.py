"""Tests of the studio in a real browser, from uploaded files to a LoRA and images that it generates."""

import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import requests

from job.output_folder import OutputFolder
from job.report.metrics import read_metrics
from preprocess.dataset import PreparedDataset
from studio.jobs.process import living, signal_group
from studio.jobs.queue import JobQueue
from studio.page import SECONDS_BETWEEN_LOOKS
from studio.workspace import Workspace
from tests.conftest import EXAMPLE
from tests.studio.studio_page import SECONDS, START_SECONDS, Page, served

if TYPE_CHECKING:
    from tests.browser import Browser

pytest.importorskip("gradio", reason="requirements-studio.txt is not installed")
pytest_plugins = ["tests.browser"]
CAPTION = "a photo of TOK under a blue <b>moon</b>"


@pytest.fixture
def upload(tmp_path: Path) -> list[Path]:
    """Two images of the example with captions in a zip, and a file that is only named like an image."""
    path = tmp_path / "robots.zip"
    with zipfile.ZipFile(EXAMPLE) as example, zipfile.ZipFile(path, "w") as archive:
        for name in ("robot_0.png", "robot_0.txt", "robot_1.png", "robot_1.txt"):
            archive.writestr(name, example.read(name))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    return [path, broken]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    """Yields the queue of the page. Ends trainings that a failed test has left."""
    workspace = Workspace(tmp_path / "studio")
    made = JobQueue(workspace.queue, workspace.runs)
    yield made
    for job in made.jobs():
        if (left := living(job)) is not None:
            signal_group(left, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_dropped_files_to_a_picture_of_the_trained_lora(
    browser: "Browser", tmp_path: Path, upload: list[Path], queue: JobQueue
) -> None:
    workspace = Workspace(tmp_path / "studio")
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
        training = hold(queue, "000001")
        page.tab("Watch")
        page.wait_for_text("#watch .message", "step ")
    with served(workspace.root) as address:  # the studio was killed and is started again; the training continues
        page = Page(browser, address)
        page.open()
        page.tab("Watch")
        page.wait_for_text("#watch", "first")
        page.wait_for_text("#watch .state", "running")
        training.resume()
        assert queue.wait_for("000001", 300).state == "done"
        knows_what_it_needs(page)
        draw(page, workspace)
        fits_a_phone(page)
        page.leave()
    assert queue.wait_for("000002", 1).state == "cancelled"
    captions = [example.caption for example in PreparedDataset.read(queue.get("000001").dataset).examples]
    assert captions[0] == f"one day, {CAPTION}" and captions[1].startswith("one day, ")


def hold(queue: JobQueue, identity: str) -> psutil.Process:
    """Suspend a training after its first steps until `resume`, so that it does not end before the page is opened again,
    however slow that is."""
    deadline = time.monotonic() + START_SECONDS
    while not read_metrics(OutputFolder(queue.get(identity).output).metrics):
        assert time.monotonic() < deadline, queue.get(identity)
        time.sleep(0.05)
    process = living(queue.get(identity))
    assert process is not None
    process.suspend()
    return process


def prepare(page: Page, upload: list[Path]) -> None:
    page.upload(*upload)
    page.wait_until_sound()
    page.choose("preset", "demo")
    page.wait_for_value("setting-base_model", "mini-sdxl")
    page.click("prepare")
    page.wait_for_text("#prepare-status", "2 images are prepared, 1 files are not used", START_SECONDS)
    page.wait_for_text("#refused", "broken.png")
    page.wait_for_text("#refused", "not an image")


def edit_captions(page: Page) -> None:
    page.browser.wait_for("document.querySelectorAll('#crops button img').length === 2", SECONDS)
    page.element("#crops button:has(img)").click()
    page.wait_for_text("#facts", "96 × 96")
    page.browser.wait_for("document.querySelector('#caption textarea').value.includes('TOK')", SECONDS)
    page.wait_until_sound()
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
    page.wait_for_text("#set-facts", "2 images")
    page.wait_for_text("#cards", "demo")
    page.wait_for_text("#cards", "GB of base weights")
    page.wait_for_text("#needs", "GB of base weights")
    page.write("setting-rank", "0")
    page.leave_field("setting-rank")
    page.wait_for_text("#needs", "No estimate yet: rank")
    page.wait_for_text("#setting-rank", "greater than or equal to 1")
    page.click("start")
    page.wait_for_text("#start-status", "greater than or equal to 1")
    assert queue.jobs() == []
    time.sleep(SECONDS_BETWEEN_LOOKS + 0.5)
    assert "greater than or equal to 1" in page.text("#setting-rank")  # the page's refresh keeps the message
    page.write("setting-rank", "2")
    page.write("setting-max_train_steps", "60")
    page.write("setting-train_batch_size", "2")
    page.leave_field("setting-train_batch_size")
    page.wait_for_text("#needs", "60 steps")
    page.wait_for_text("#needs", "GB of base weights")
    assert "greater than or equal to 1" not in page.text("#setting-rank")
    page.write("run-name", "first")
    page.click("start")
    page.wait_for_text("#start-status", "first is in the queue")
    page.write("run-name", "second")
    page.click("start")
    page.wait_for_text("#start-status", "second is in the queue")
    assert {job.name: job.state for job in queue.jobs()}["second"] == "queued"
    page.wait_for_text("#queue", "waiting")
    page.wait_for_value("job", "second")
    page.click("cancel")
    page.wait_for_text("#job_message", "second")


def knows_what_it_needs(page: Page) -> None:
    """Check that the time and cost of a training like the first are estimated from the first."""
    page.tab("Train")
    page.wait_for_text("#needs", "unknown until a similar training was measured")
    page.write("setting-train_batch_size", "2")
    page.write("price", "2")
    page.wait_for_text("#needs", "as measured in the run first, which differs in rank")
    page.wait_for_text("#needs", "cost: about")
    page.wait_for_text("#needs", "GB of base weights")


def draw(page: Page, workspace: Workspace) -> None:
    page.tab("Try")
    page.wait_for_value("lora", "first")
    page.wait_for_value("prompts", "a photo of TOK on a green background")
    page.click("compare")
    page.wait_for_text("#draw-status", "2 images", START_SECONDS)
    page.wait_for_text("#before-after", "right at scale 1")
    page.browser.wait_for("document.querySelectorAll('#before-after img').length >= 2", SECONDS)
    assert len(list(workspace.images.rglob("*.png"))) == 2
    page.browser.wait_for("document.querySelectorAll('#images img').length >= 2", SECONDS)


def fits_a_phone(page: Page) -> None:
    page.browser.resize(390, 844, "dark")
    for tab in ("Pictures", "Train", "Watch", "Try"):
        page.tab(tab)
        page.wait_until_sound()
