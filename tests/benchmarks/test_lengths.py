"""Tests of the comparison of trainings that end by themselves with trainings of a fixed length."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.concepts import lengths
from benchmarks.concepts.lottery import draw_concept
from benchmarks.concepts.measures import MEASURES
from benchmarks.concepts.report import STEPS
from benchmarks.learning.contenders import Train, Usage


def test_a_run_that_ends_by_itself_tells_its_steps_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"steps": 300, "ending": {"headline": "ended when settled", "looks": [{"step": 300}, {"step": 375}]}}

    def training(options: Sequence[object], data: Path) -> Train:
        def train(folder: Path, steps: int, seed: int) -> Usage:
            assert "--stop_when_settled" in options and data.exists() and steps == lengths.MOST_STEPS
            folder.mkdir()
            (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
            return Usage(9.0, 1.0, 8.0)

        return train

    monkeypatch.setattr(lengths, "our_training", training)
    row = lengths.train_until_settled(draw_concept(0), tmp_path / "run")
    assert row == {"steps": 375, "returned": 300, "ended": "ended when settled", "CPU seconds": 8.0}


def test_the_page_has_the_steps_of_both_ways(tmp_path: Path) -> None:
    measures = dict.fromkeys(MEASURES, 0.5)
    fixed, settled = (
        [{"way": way, "concept": f"{index}: figure", "seed": 0, **steps, **measures} for index, steps in enumerate(own)]
        for way, own in (
            ("fixed", [{}, {}]),
            (lengths.SETTLED, [{"steps": 400, "returned": 300}, {"steps": 700, "returned": 700}]),
        )
    )
    lengths.write_page(tmp_path / "page.md", fixed, settled, (0, 1), {"abc"})
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| steps | 400 | 400 | 700 |" in text and "| returned | 300 | 300 | 700 |" in text
    assert f"| 0: figure | fixed | {STEPS} | {STEPS} | 0.5 |" in text
    assert f"| 1: figure | {lengths.SETTLED} | 700 | 700 | 0.5 |" in text
