"""Writes the screenshots of docs/studio.md from the running page: trains on the example, samples, and captures each
tab.

python -m tools.studio_pictures [FOLDER]

Needs Chromium. FOLDER also gets screenshots that the document does not show: each tab 1400 and 390 pixels wide, light
and dark.
"""

import argparse
import base64
import io
import tempfile
import time
from pathlib import Path

from PIL import Image

from studio.jobs.queue import JobQueue
from studio.workspace import Workspace
from tests.browser import Browser, chromium
from tests.conftest import EXAMPLE
from tests.studio.studio_page import SECONDS, START_SECONDS, Page, served

DOCS = Path(__file__).resolve().parents[1] / "docs"
READY = {
    "Pictures": "document.querySelectorAll('#crops img').length > 1",
    "Train": "document.querySelector('#needs').textContent.includes('as measured')",
    "Watch": "document.querySelector('#watch .run svg') && document.querySelector('#samples img')",
    "Try": "document.querySelectorAll('#before-after img').length > 1",
}
"""The tabs, with an expression that is true when a tab is complete."""
OF_THE_DOCUMENT = {"pictures-1400-light", "train-1400-light", "watch-1400-dark", "try-1400-light", "watch-390-light"}
TALLEST = 1500
SECONDS_TO_SETTLE = 2.5
STEPS = 120


def teach(page: Page, queue: JobQueue) -> None:
    """Prepare the example, train on it, and compare before and after."""
    page.open()
    page.upload(EXAMPLE)
    page.choose("preset", "demo")
    page.wait_for_value("setting-base_model", "mini-sdxl")
    page.click("prepare")
    page.wait_for_text("#prepare-status", "are prepared", START_SECONDS)
    page.tab("Train")
    page.wait_for_text("#set-facts", "images")
    page.write("setting-max_train_steps", str(STEPS))
    page.write("setting-sample_steps", str(STEPS // 3))
    page.click("start")
    page.wait_for_text("#start-status", "in the queue")
    queue.wait_for("000001", 900)
    page.tab("Try")
    page.wait_for_value("lora", "robot")
    page.wait_for_value("prompts", "a photo of TOK on a green background")
    page.write("prompts", "a photo of TOK on a green background\na photo of TOK on a blue background")
    page.click("compare")
    page.wait_for_text("#draw-status", "4 images", START_SECONDS)


def photographs(page: Page, width: int, height: int, scheme: str) -> dict[str, Image.Image]:
    """Return a screenshot of each tab, by its name. Prints elements that are wider than the window, have no label, or
    have too little contrast."""
    found = {}
    for tab, ready in READY.items():
        page.browser.resize(width, height, scheme)
        page.tab(tab)
        page.browser.wait_for(ready, SECONDS)
        time.sleep(SECONDS_TO_SETTLE)
        if tab == "Pictures":
            page.element("#crops button:has(img)").click()
            page.wait_for_text("#facts", "cropped to")
        name = f"{tab.lower()}-{width}-{scheme}"
        for complaint in (
            *page.too_wide(),
            *page.unlabelled(),
            *page.browser.faint_texts(),
            *page.browser.complaints(),
        ):
            print(f"{name}: {complaint}")
        found[name] = photograph(page.browser, width)
    return found


def photograph(browser: Browser, width: int) -> Image.Image:
    """Return a screenshot of the page from its top, with its full height up to TALLEST."""
    height = min(TALLEST, int(browser.run("return document.documentElement.scrollHeight")))
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return Image.open(io.BytesIO(base64.b64decode(taken["data"])))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        workspace = Workspace(Path(scratch))
        with served(workspace.root) as address:
            page = Page(browser, address)
            teach(page, JobQueue(workspace.queue, workspace.runs))
            for width, height in ((1400, 900), (390, 844)):
                for scheme in ("light", "dark"):
                    for name, picture in photographs(page, width, height, scheme).items():
                        write(name, picture, given)


def write(name: str, picture: Image.Image, folder: Path | None) -> None:
    """Write a screenshot into docs/ if the document uses it, and into the folder."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        picture.convert("RGB").save(folder / f"{name}.png")
    if name in OF_THE_DOCUMENT:
        picture.convert("RGB").save(DOCS / f"studio-{name}.webp", quality=72, method=6)


if __name__ == "__main__":
    main()
