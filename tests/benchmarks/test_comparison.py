"""Tests of the comparison with the last record of the same kind of machine, which reports what became worse."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record as records
from benchmarks.comparison import comparison, reference_loop
from benchmarks.record import write_record

MACHINE = {"processor": "fast", "cores": 2, "threads": 1, "gpu": None}


def record(rows: list[dict[str, Any]], ms: float = 10.0, spread: float = 0.02, **changes: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "commit": "abc", "reference": {"ms": ms, "spread": spread},
            "settings": {"steps": 3}, "rows": rows, **changes}  # fmt: skip


def row(**figures: float) -> dict[str, Any]:
    names = {"step": "step, ms", "rate": "images/s", "memory": "peak memory, MB"}
    return {"base": "mini", "batch": 4, **{names[name]: value for name, value in figures.items()}, "score": 0.5}


def worse(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    told = list(comparison(before, now))
    assert told[0].startswith("compared with commit abc on this kind of machine")
    return [line.removeprefix("worse: ").partition(" times")[0] for line in told[1:]]


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"step": 100}, {"step": 120}, ["mini, 4: step, ms: 1.20"]),
        ({"step": 100}, {"step": 105}, ["nothing became worse by more than the noise"]),
        ({"rate": 100}, {"rate": 80}, ["mini, 4: images/s: 1.25"]),
        ({"rate": 100, "step": 100}, {"rate": 130, "step": 70}, ["nothing became worse by more than the noise"]),
        ({"memory": 500}, {"memory": 600}, ["mini, 4: peak memory, MB: 1.20"]),
    ],
)
def test_a_figure_is_worse_in_the_direction_of_its_unit(
    before: dict[str, float], now: dict[str, float], found: list[str]
) -> None:
    assert worse(record([row(**before)]), record([row(**now)])) == found


def test_a_busy_machine_is_not_a_slower_program() -> None:
    before, busy = record([row(step=100, rate=10, memory=500)]), record([row(step=200, rate=5, memory=500)], ms=20)
    assert worse(before, busy) == ["nothing became worse by more than the noise"]
    idle = record([row(step=100, rate=10, memory=500)], ms=5)
    assert worse(before, idle) == ["mini, 4: step, ms: 2.00", "mini, 4: images/s: 2.00"]
    noisy = record([row(step=130)], spread=0.4)
    assert worse(before, noisy) == ["nothing became worse by more than the noise"]


def test_a_figure_that_stayed_is_not_worse_because_the_reference_loop_became_a_little_faster() -> None:
    before, now = record([row(step=100, rate=10)], ms=69), record([row(step=102, rate=9.7)], ms=61)
    assert worse(before, now) == ["nothing became worse by more than the noise"]
    assert worse(before, record([row(step=130)], ms=61)) == ["mini, 4: step, ms: 1.47"]


def test_rows_are_distinguished_and_ratios_left_out() -> None:
    def rows(ours: float, ratio: float) -> list[dict[str, Any]]:
        return [{"training": "theirs", "whole job, s": 20.0}, {"training": "ours", "whole job, s": ours},
                {"training": "ours, by theirs", "whole job, s": ratio}]  # fmt: skip

    assert worse(record(rows(10.0, 0.5)), record(rows(15.0, 0.75))) == ["ours: whole job, s: 1.50"]


def test_what_cannot_be_compared_is_said() -> None:
    now = record([row(step=100)])
    (line,) = comparison(record([row(step=1)], settings={"steps": 4}), now)
    assert "it has other settings" in line
    old = record([row(step=1)])
    del old["reference"]
    (line,) = comparison(old, now)
    assert "it has no reference loop" in line


def test_the_last_record_of_each_kind_of_machine_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(records, "reference_loop", lambda: {"ms": 10.0, "spread": 0.0})
    for processor, step in (("a", 100), ("b", 300), ("a", 150)):
        monkeypatch.setattr(records, "machine", lambda processor=processor: {**MACHINE, "processor": processor})
        path = write_record("speed", [row(step=step)], {}, tmp_path)
    assert "mini, 4: step, ms: 1.50 times what it was (100, now 150)" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert written["rows"][0]["step, ms"] == 150
    assert [each["rows"][0]["step, ms"] for each in written["earlier"]] == [300]
    assert all("earlier" not in each for each in written["earlier"])


def test_the_reference_loop_is_timed_with_its_spread() -> None:
    found = reference_loop()
    assert found["ms"] > 0 and found["spread"] >= 0
