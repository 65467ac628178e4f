"""Runs the studio's page as a process, and performs a user's actions on it in a browser."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.conftest import PROJECT

if TYPE_CHECKING:
    from tests.browser import Browser

ATTEMPTS = 3
START_SECONDS = 300
SECONDS = 300
"""Longest wait for the page, more than a loaded machine needs. A wait ends as soon as its condition holds."""
UNTRANSLATED = re.compile(r"[a-z_]+(\.[a-z_]+)+")
"""A key of Gradio's translations, shown in place of a name."""
CONTROLS = {"button", "checkbox", "combobox", "listbox", "slider", "spinbutton", "tab", "textbox"}
TURNING = ("BUTTON label-wrap", "BUTTON icon-button", "DIV block gr-accordion", "DIV outer")
"""Elements that contain Gradio's small icons, whose boxes are wider while they are rotated."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the studio on `folder`, and yield its address. It is killed at the end, as if it had crashed."""
    for _ in range(ATTEMPTS):
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "studio", "--folder", str(folder), "--port", str(port)],
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        try:
            if answers(process, f"http://127.0.0.1:{port}"):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    raise AssertionError("the studio does not answer")


def free_port() -> int:
    """Return a port that is free now. It is below the ports that the system uses for connections (on Linux from 32768),
    so it is most likely still free when the page is served seconds later."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


def answers(process: "subprocess.Popen[bytes]", address: str) -> bool:
    """Wait until the page answers. Returns False if its process ends before that, or after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(requests.RequestException):
            requests.get(address, timeout=10)
            return True
        time.sleep(0.1)
    return False


@dataclass(frozen=True)
class Page:
    """The open page. Elements are found by their ids."""

    browser: "Browser"
    address: str

    def open(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        self.browser.open_address(self.address, width, height, scheme)
        self.browser.wait_for("document.querySelector('#prepare')", SECONDS)

    def leave(self) -> None:
        """Leave the page, and drop its console messages, since the browser's next test has another page."""
        self.browser.driver.get("about:blank")
        self.browser.complaints()

    def tab(self, name: str) -> None:
        tabs = self.browser.driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")
        next(tab for tab in tabs if tab.text.strip() == name).click()

    def element(self, selector: str) -> WebElement:
        return self.browser.driver.find_element(By.CSS_SELECTOR, selector)

    def upload(self, *files: Path) -> None:
        self.element("#drop input[type=file]").send_keys("\n".join(map(str, files)))
        for file in files:
            self.wait_for_text("#drop", file.stem)

    def click(self, identity: str) -> None:
        button = self.element(f"#{identity}")
        self.browser.run(f"document.querySelector('#{identity}').scrollIntoView({{block: 'center'}})")
        button.click()

    def write(self, identity: str, text: str) -> None:
        field = self.element(f"#{identity} textarea, #{identity} input")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def leave_field(self, identity: str) -> None:
        """Leave a field by keyboard. The page then computes what depends on it, which may move the elements below."""
        self.element(f"#{identity} textarea, #{identity} input").send_keys(Keys.TAB)

    def choose(self, identity: str, text: str) -> None:
        """Choose from a list by typing `text`, once the list shows only options that contain it."""
        field = self.element(f"#{identity} input")
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)
        options = f"[...document.querySelectorAll('#{identity} [role=option]')]"
        self.browser.wait_for(
            f"{options}.length && {options}.every((one) => one.textContent.includes({text!r}))", SECONDS
        )
        field.send_keys(Keys.ENTER)

    def unlabelled(self) -> list[str]:
        """Return the roles of visible controls without a name for screen readers, with the key shown in its place."""
        tree = self.browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        controls = [node for node in tree["nodes"] if not node["ignored"] and node["role"]["value"] in CONTROLS]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in controls]
        return [f"{role} {name}" for role, name in named if not name or UNTRANSLATED.fullmatch(name)]

    def wait_until_sound(self) -> None:
        """Wait until nothing is too wide and every control has a name, since sizes follow the window with a delay.
        Raises AssertionError with what is still wrong."""
        deadline = time.monotonic() + SECONDS
        while complaints := [*self.too_wide(), *self.unlabelled()]:
            assert time.monotonic() < deadline, complaints
            time.sleep(0.2)

    def too_wide(self) -> list[str]:
        """Return elements that are wider than the window or their container, except for Gradio's rotating icons."""
        return [one for one in self.browser.overflowing() if not one.startswith(TURNING)]

    def text(self, selector: str) -> str:
        return str(self.browser.run(f"return document.querySelector({selector!r})?.textContent ?? ''"))

    def value(self, identity: str) -> str:
        return str(
            self.browser.run(f"return document.querySelector('#{identity} textarea, #{identity} input').value ?? ''")
        )

    def wait_for_text(self, selector: str, text: str, seconds: float = SECONDS) -> None:
        """Wait until the element contains `text`. Raises TimeoutException."""
        self.browser.wait_for(f"(document.querySelector({selector!r})?.textContent ?? '').includes({text!r})", seconds)

    def wait_for_value(self, identity: str, text: str, seconds: float = SECONDS) -> None:
        """Wait until the field's value is `text`. Raises TimeoutException."""
        selector = f"#{identity} textarea, #{identity} input"
        self.browser.wait_for(f"document.querySelector({selector!r})?.value === {text!r}", seconds)
