"""Tests that untrusted names, captions, prompts and metadata are text on every page, and never markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image

from evaluation.choice import Relative
from evaluation.comparison.compare import Row
from evaluation.comparison.table import markdown
from evaluation.comparison.table import page as comparison_page
from job.publishing.model_card import CardFacts, listed_settings, model_card
from job.report.page import write_page
from preprocess.crops.crop import centre_crop
from preprocess.dataset import Example, PreparedDataset, Rejected, View
from preprocess.gallery.page import write_gallery
from service.sweep.summary import summary_page
from service.sweep.trials import Trial, lay_out
from settings.training import TrainingConfig, build_config
from tests.job.report_folder import evaluation_json, make_output, scores

if TYPE_CHECKING:
    from tests.browser import Browser

pytest_plugins = ["tests.browser"]

HOSTILE = "\"'></script><img src=x onerror=\"document.title='taken'\"><svg/onload=alert(1)> $\\frac$ ${data}"
TRIGGER = "<script>*tok*</script>"
RISKY = "return [...document.querySelectorAll('img[src=x], svg[onload], [onerror]')].length"


def report(folder: Path) -> Path:
    """Write the report of a run in which every text is untrusted."""
    output, dataset = make_output(folder / "run")
    summary = json.loads(output.report.read_text())
    summary["config"] |= {"base_model": HOSTILE, "validation_prompt": f"{TRIGGER} {HOSTILE}", "captioner": HOSTILE,
                          "trigger_word": TRIGGER, "filters": [HOSTILE]}  # fmt: skip
    summary |= {"triggers": [TRIGGER], "warnings": [HOSTILE], "rejected": [{"source": HOSTILE, "reason": HOSTILE}],
                "versions": {"python": HOSTILE}}  # fmt: skip
    summary["evaluation"]["measured_by"] = HOSTILE
    summary["evaluation"]["verdict"]["headline"] = HOSTILE
    output.report.write_text(json.dumps(summary))
    examples = tuple(replace(one, source=HOSTILE, caption=HOSTILE, concept=TRIGGER) for one in dataset.examples)
    return write_page(output, replace(dataset, examples=examples))


def gallery(folder: Path) -> Path:
    """Write the contact sheet of a dataset with untrusted names."""
    (folder / "images").mkdir()
    Image.new("RGB", (64, 64), (9, 99, 9)).save(folder / "images" / "a.png")
    view = View("images/a.png", centre_crop((64, 64), (64, 64)))
    one = Example(HOSTILE, HOSTILE, HOSTILE, (view,), TRIGGER, warnings=(HOSTILE,))
    return write_gallery(PreparedDataset(folder, (one,), (Rejected(HOSTILE, HOSTILE),), (HOSTILE,)))


def rows() -> list[Row]:
    """Return a comparison whose LoRAs and subjects have untrusted names."""
    picture = [Image.new("RGB", (8, 8))]
    return [
        Row(HOSTILE, None, None, scores(0.1), None, picture),
        Row(HOSTILE, HOSTILE, 1.0, scores(0.5), Relative(0.5, 0.5, 0.9, 0.6), picture),
        Row("other", TRIGGER, 1.0, scores(0.4), Relative(0.5, 0.5, 0.9, 0.5), picture),
    ]


def comparison(folder: Path) -> Path:
    path = folder / "comparison.html"
    path.write_text(comparison_page(rows(), [HOSTILE]), encoding="utf-8")
    return path


def sweep(folder: Path) -> Path:
    """Write the page of a sweep with one finished trial and one that has failed."""
    trials = lay_out(folder / "sweep", {}, [{"trigger_word": TRIGGER, "captioner": HOSTILE}] * 2)
    finish(trials[0])
    path = folder / "sweep" / "sweep.html"
    path.write_text(summary_page(trials, {1: HOSTILE}), encoding="utf-8")
    return path


def finish(trial: Trial) -> None:
    trial.output.mkdir(parents=True)
    evaluation = evaluation_json(trial.output)
    evaluation["verdict"]["headline"] = HOSTILE
    (trial.output / "report.json").write_text(json.dumps({"seconds": 3.0, "evaluation": evaluation}))


PAGES: tuple[Callable[[Path], Path], ...] = (report, gallery, comparison, sweep)


class Elements(HTMLParser):
    """Collects the elements that a browser would create, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("write", PAGES, ids=lambda write: write.__name__)
def test_nothing_of_it_becomes_an_element(write: Callable[[Path], Path], tmp_path: Path) -> None:
    text = write(tmp_path).read_text(encoding="utf-8")
    elements = Elements(text).found
    assert not [tag for tag, given in elements if any(name.startswith("on") for name in given)]
    assert not [tag for tag, given in elements if given.get("src") == "x"]
    assert "onerror" in text  # the text itself is shown


@pytest.mark.parametrize("write", PAGES, ids=lambda write: write.__name__)
def test_a_browser_shows_it_as_text(write: Callable[[Path], Path], tmp_path: Path, browser: Browser) -> None:
    browser.open(write(tmp_path))
    browser.scroll_through()
    assert browser.run(RISKY) == 0
    assert "taken" not in browser.driver.title and browser.complaints() == []
    assert "<img src=x onerror=" in browser.run("return document.body.textContent")


def plain(markdown_text: str) -> str:
    """Return the text without its code spans: the part that could become markup."""
    return "".join(markdown_text.split("`")[::2])


def hostile_settings() -> TrainingConfig:
    values: dict[str, Any] = {"trigger_word": TRIGGER, "base_model": "/models/<img src=x onerror=y>.safetensors",
                              "class_word": "`</code><img src=x onerror=1>`", "captioner": "<script>alert(1)</script>",
                              "validation_prompt": f"{TRIGGER} `{HOSTILE}` | [x](javascript:alert(1))",
                              "caption_prefix": "# heading\n\n<img src=x onerror=alert(1)>"}  # fmt: skip
    return build_config(values)


def test_the_model_card_shows_it_as_code() -> None:
    config = hostile_settings()
    facts = CardFacts(config.base_model, [TRIGGER], [str(config.validation_prompt)], listed_settings(config))
    card = model_card(facts, None, [Path("00.png")])
    header, body = card.removeprefix("---\n").split("---\n", 1)
    assert "<" not in plain(body) and "javascript" not in plain(body)
    assert all(line.count("`") % 2 == 0 for line in body.splitlines())
    assert "/models/" not in card and "heading\n" not in body
    assert yaml.safe_load(header)["instance_prompt"] == TRIGGER and "base_model" not in yaml.safe_load(header)


def test_the_table_of_a_comparison_is_no_markup() -> None:
    text = markdown(rows())
    assert "<" not in text and "&lt;img src=x" in text
    assert len(text.splitlines()) == 5
