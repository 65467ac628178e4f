"""Tests that warnings of one kind are gathered into one line for more than three images, and that the report lists each
of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from job.output_folder import OutputFolder
from job.run import run
from preprocess.repeated_warnings import gathered
from settings.training import build_config
from tests.preprocess.uploads.ugly_uploads.making import picture

MakeFiles = Callable[[Mapping[str, bytes]], Path]


@pytest.mark.parametrize(
    "line",
    [
        "{name}: its caption from {name}.txt lacks the trigger word TOK; trained as 'TOK, a {name}'",
        "{name}: its caption has {number} tokens, and the text encoders read 77; the end is not trained. Shorten it.",
        "{name}: 4,{number} × 40 pixels: 0.{number} of it is lost",
    ],
)
@pytest.mark.parametrize("count", [3, 4, 12])
def test_lines_of_one_kind_are_one_line(line: str, count: int) -> None:
    names = [f"p{number}.png" for number in range(count)]
    lines = [(name, line.format(name=name, number=100 + number)) for number, name in enumerate(names)]
    found = gathered([*lines, ("x.png", "x.png: something else")])
    if count == 3:
        assert found == [*(text for _, text in lines), "x.png: something else"]
        return
    assert len(found) == 2 and found[1] == "x.png: something else"
    assert found[0].startswith(lines[0][1]) and f"the same for {count - 1} others: p1.png, p2.png" in found[0]
    assert ("…" in found[0]) == (count > 6)


def test_other_kinds_stay_apart() -> None:
    lines = [("a.png", f"a.png: fault of kind {kind}") for kind in "ABCDE"]
    assert gathered(lines) == [line for _, line in lines]


@pytest.mark.slow
def test_the_report_lists_what_the_screen_counts(make_zip: MakeFiles, tmp_path: Path) -> None:
    files = {f"p{number}.png": picture(seed=number) for number in range(6)}
    files |= {f"p{number}.txt": b"a lamp on a table" for number in range(6)}
    output = OutputFolder.create(tmp_path / "out")
    config = build_config({"base_model": "mini-sdxl", "captioner": "none", "max_train_steps": 1, "rank": 2,
                           "num_validation_images": 0, "evaluate": "false"})  # fmt: skip
    shown = [event.message for event in run(config, [make_zip(files)], output) if event.warning]
    lines = [line for line in shown if "lacks the trigger word" in line]
    assert len(lines) == 1 and "the same for 5 others: p1.png" in lines[0]
    report = json.loads(output.report.read_text())
    assert lines[0] in report["warnings"]
    assert sum("lacks the trigger word" in line for line in report["image_warnings"]) == 6
    page = output.page.read_text(encoding="utf-8")
    assert all(f"p{number}.png: its caption from p{number}.txt" in page for number in range(6))
