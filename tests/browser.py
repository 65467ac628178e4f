"""A real browser for the tests of pages. `pytest_plugins = ["tests.browser"]` in a test file provides `browser`.

Import `Browser` for type checking only, because pytest must be the first to import a plugin.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
MISSING = (
    "Chromium is not installed: apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Texts below the contrast that WCAG 2.2 (1.4.3, AA) requires: 4.5, and 3 for text from 24 px, or from 18.66 px bold.
# Formulas: WCAG 2.2, "relative luminance" and "contrast ratio".
FAINT_TEXTS = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = channels(getComputedStyle(one).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const faint = [];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (!own || !element.checkVisibility() || ["SCRIPT", "NOSCRIPT", "OPTION"].includes(element.tagName)) continue;
  const style = getComputedStyle(element), pixels = parseFloat(style.fontSize);
  const lights = [luminance(channels(style.color)), luminance(behind(element))].sort((a, b) => a - b);
  const ratio = (lights[1] + 0.05) / (lights[0] + 0.05);
  const large = pixels >= 24 || (pixels >= 18.66 && style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)} ${element.textContent.trim()}`);
}
return faint;
"""

# Visible texts that are too small to be read easily on a phone. Texts of an SVG are measured at the size shown.
SMALL_TEXTS = """
const small = [];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  if (!own || !element.checkVisibility() || ["SCRIPT", "NOSCRIPT", "OPTION"].includes(element.tagName)) continue;
  const svg = element.closest("svg");
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  const pixels = parseFloat(getComputedStyle(element).fontSize) * scale;
  if (pixels < 11.5) small.push(`${pixels.toFixed(1)} ${element.textContent.trim()}`);
}
return small;
"""

SCROLL_THROUGH = """
const done = arguments[0];
const step = () => {
  const before = scrollY;
  scrollBy(0, innerHeight / 2);
  if (scrollY > before) return requestAnimationFrame(step);
  scrollTo(0, 0);
  requestAnimationFrame(done);
};
requestAnimationFrame(step);
"""

OVERFLOWING = """
const root = document.documentElement;
const excess = (element) => [
  element.scrollWidth - element.clientWidth, // content wider than the box, cut off or not
  element.getBoundingClientRect().right - root.clientWidth,
];
return [root, ...document.body.querySelectorAll("*")]
  .filter((element) => element.clientWidth > 1 && element.checkVisibility() && !element.closest("svg, select"))
  .filter((element) => Math.max(...excess(element)) > 1)
  .map((element) => `${element.tagName} ${element.className} ${excess(element)}`);
"""


SCROLLED = re.compile(r"^DIV scroll |^T(ABLE|BODY|HEAD|R|H|D) ")


@dataclass(frozen=True)
class Browser:
    """Headless Chromium, with checks that apply to every page."""

    driver: Chrome

    def open(self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Show a file in a window of `width` × `height` CSS pixels. `scheme`: the system's theme, light or dark."""
        self.open_address(page.as_uri(), width, height, scheme)

    def open_address(self, address: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """As `open`, for the address of a page."""
        self.resize(width, height, scheme)
        self.driver.get(address)

    def resize(self, width: int, height: int, scheme: str) -> None:
        """Change the window of the open page."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script: str) -> Any:
        """Return the result of the function body `script` in the page."""
        return self.driver.execute_script(script)

    def wait_for(self, condition: str, seconds: float = 5) -> None:
        """Wait until the JavaScript expression is true. Raises TimeoutException."""
        WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(
            lambda _: bool(self.run(f"return {condition}")), condition
        )

    def scroll_through(self) -> None:
        """Scroll through the page, so that lazy content is loaded, and return to the top."""
        self.driver.execute_async_script(SCROLL_THROUGH)

    def complaints(self) -> list[str]:
        """Return console messages since the last call: errors, uncaught exceptions, blocked loads."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def overflowing(self) -> list[str]:
        """Return elements wider than the window or their container: tag, class, and excess in pixels."""
        return list(self.run(OVERFLOWING))

    def faint_texts(self) -> list[str]:
        """Visible texts with too little contrast, each with its ratio."""
        return list(self.run(FAINT_TEXTS))

    def small_texts(self) -> list[str]:
        """Visible texts of less than 11.5 pixels, each with its size."""
        return list(self.run(SMALL_TEXTS))

    def too_wide(self) -> list[str]:
        """As `overflowing`, without tables that can be scrolled in a box of their own."""
        return [one for one in self.overflowing() if not SCROLLED.search(one)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium with a profile of its own. Skips the test if it is not installed."""
    if not (CHROMIUM.is_file() and DRIVER.is_file()):
        pytest.skip(MISSING)
    with chromium() as opened:
        yield opened


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium outside of a test."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = Chrome(_options(profile), ChromeService(str(DRIVER)))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


def _options(profile: str) -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return options
