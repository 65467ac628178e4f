"""Tests of the contact sheet of a dataset in a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from preprocess.dataset import PreparedDataset
from preprocess.gallery.page import write_gallery
from tests.fast_part import slow_but

if TYPE_CHECKING:
    from tests.browser import Browser

pytest_plugins = ["tests.browser", "tests.preprocess.gallery.gallery_dataset"]


SHOWN_NAMES = "return [...document.querySelectorAll('.card:not([hidden]) .name')].map((name) => name.textContent)"
BROKEN_PICTURES = """
const pictures = [...document.querySelectorAll(".card img")];
return pictures.filter((picture) => !(picture.complete && picture.naturalWidth > 0)).map((picture) => picture.alt);
"""
CROP_BOX = """
const card = [...document.querySelectorAll(".card")].find((card) => card.textContent.includes("panorama.tif"));
card.scrollIntoView();
const picture = card.querySelector("img").getBoundingClientRect();
const box = card.querySelector(".crop .line").getBoundingClientRect();
return [(box.left - picture.left) / picture.width, (box.top - picture.top) / picture.height,
  box.width / picture.width, box.height / picture.height];
"""


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"const choice = document.querySelector('[name={name}]'); choice.value = {json.dumps(value)};"
        "choice.dispatchEvent(new Event('input', { bubbles: true }))"
    )


def click(browser: Browser, selector: str) -> None:
    browser.driver.find_element(By.CSS_SELECTOR, selector).click()


def count_shown(browser: Browser) -> str:
    return browser.driver.find_element(By.ID, "count").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", slow_but([360], [360, 1280]))
def test_all_is_shown_without_complaint(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, 800, scheme)
    browser.scroll_through()
    browser.wait_for("[...document.querySelectorAll('.card img')].every((picture) => picture.complete)")
    assert browser.run(BROKEN_PICTURES) == []
    assert browser.run("return document.querySelectorAll('.card img').length") == 12 + 4 + 4
    assert browser.overflowing() == []
    assert browser.faint_texts() == [] and browser.small_texts() == []
    assert browser.complaints() == []


def test_only_what_is_near_is_loaded(browser: Browser, page: Path) -> None:
    browser.open(page, 360, 400)
    browser.run("document.querySelector('.card').scrollIntoView()")
    browser.wait_for("document.querySelector('.card img[src]')?.complete")
    assert 0 < browser.run("return document.querySelectorAll('.card img[src]').length") < 12


def test_foreign_text_is_shown_as_text(browser: Browser, dataset: PreparedDataset, page: Path) -> None:
    browser.open(page)
    assert browser.run(SHOWN_NAMES) == [one.source for one in dataset.examples]
    captions = "return [...document.querySelectorAll('.caption')].map((caption) => caption.textContent)"
    assert browser.run(captions) == [one.caption for one in dataset.examples]
    assert browser.driver.title == "anna & the hills"
    assert not browser.run("return document.querySelector('img[src=x], dt script, dt b')")
    assert "<script>alert(2)</script>.jpg" in browser.driver.find_element(By.ID, "rejected").text


def test_each_of_several_captions_has_a_line(browser: Browser, dataset: PreparedDataset, tmp_path: Path) -> None:
    several = replace(dataset.examples[0], caption="a portrait of TOK", other_captions=("TOK by a wall",))
    browser.open(write_gallery(replace(dataset, examples=(several,)), tmp_path))
    assert browser.run("return document.querySelector('.caption').innerText") == "a portrait of TOK\nTOK by a wall"


def test_the_crop_box_is_drawn_where_the_picture_was_cut(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run(CROP_BOX) == pytest.approx([0.25, 0, 0.5, 1], abs=0.02)
    click(browser, "[name=crop]")
    assert browser.run(CROP_BOX)[2:] == [0, 0]


def test_search_finds_names_and_captions(browser: Browser, page: Path) -> None:
    browser.open(page)
    search = browser.driver.find_element(By.NAME, "text")
    search.send_keys("STRASSE")
    assert browser.run(SHOWN_NAMES) == []
    assert browser.driver.find_element(By.ID, "nothing").is_displayed()
    search.clear()
    search.send_keys("zo\u0065\u0308 GREEN")  # ë in two code points, as macOS writes names; a word of the caption
    assert browser.run(SHOWN_NAMES) == ['anna/Zoë "Straße" d\'été.png']
    assert count_shown(browser) == "1 of 12 images"
    click(browser, "#reset")
    assert count_shown(browser) == "12 of 12 images"


def test_filters_narrow_down_together(browser: Browser, page: Path) -> None:
    browser.open(page)
    click(browser, "[name=onlyWarnings]")
    assert browser.run(SHOWN_NAMES) == ['anna/Zoë "Straße" d\'été.png', "panorama.tif", "small.gif"]
    choose(browser, "concept", "HIL")
    choose(browser, "bucket", "288 × 192")
    choose(browser, "captionGroup", "metadata.jsonl")
    assert browser.run(SHOWN_NAMES) == ["panorama.tif", "small.gif"]
    choose(browser, "captionGroup", "*.txt")
    assert count_shown(browser) == "0 of 12 images"


def test_the_keyboard_is_enough(browser: Browser, page: Path) -> None:
    browser.open(page)
    keys = ActionChains(browser.driver)
    keys.send_keys("/", "panorama", Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB, Keys.SPACE).perform()
    assert browser.run("return document.activeElement.name") == "onlyWarnings"
    assert browser.run("return document.activeElement.checked") and browser.run(SHOWN_NAMES) == ["panorama.tif"]


def test_masks_are_laid_over_one_picture_or_all(browser: Browser, page: Path) -> None:
    browser.open(page)
    masked = "return document.querySelectorAll('.masked').length"
    click(browser, "button.view")
    assert browser.run(masked) == 1
    assert browser.run("return document.querySelector('button.view').ariaPressed") == "true"
    click(browser, "[name=masks]")
    assert browser.run(masked) == 4
    click(browser, "[name=masks]")
    assert browser.run(masked) == 0


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_theme_follows_the_system_until_it_is_chosen(browser: Browser, page: Path, scheme: str, other: str) -> None:
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 21, 20)"}
    browser.open(page, scheme=scheme)
    assert browser.run(background) == paper[scheme]
    click(browser, "#theme")
    assert browser.run(background) == paper[other]
    assert browser.driver.find_element(By.ID, "theme").get_attribute("aria-pressed") == str(other == "dark").lower()
