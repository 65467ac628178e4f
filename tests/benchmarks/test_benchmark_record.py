"""Tests of the records, tables and finished runs that benchmarks write."""

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.finished_runs import FinishedRuns, Unfinished
from benchmarks.record import markdown, write_record


def test_a_record_tells_machine_versions_commit_and_settings(tmp_path: Path) -> None:
    path = write_record("speed", [{"what": "ours", "seconds": 1.5}], {"steps": 3}, tmp_path)
    record = json.loads(path.read_text())
    assert record["rows"] == [{"what": "ours", "seconds": 1.5}]
    assert record["settings"] == {"steps": 3}
    assert record["machine"]["cores"] > 0
    assert "torch" in record["machine"]["versions"]
    assert record["commit"]


def test_rows_are_a_table_for_people() -> None:
    table = markdown([{"what": "ours", "seconds": 0.12345}, {"what": "theirs | others", "seconds": 12}])
    assert table.splitlines() == [
        "| what | seconds |", "| --- | --- |", "| ours | 0.123 |", "| theirs \\| others | 12 |"]  # fmt: skip


def test_a_benchmark_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    made: list[str] = []

    def run(name: str) -> dict[str, int]:
        made.append(name)
        return {"run": len(made)}

    def runs(at_most: int | None, steps: int = 3) -> list[int]:
        finished = FinishedRuns(tmp_path, at_most)
        names = ("ours, seed 0", "ours, seed 1", "theirs/../0")
        return [finished.get(name, {"steps": steps}, partial(run, name))["run"] for name in names]

    with pytest.raises(Unfinished, match="theirs"):
        runs(at_most=2)
    assert runs(at_most=1) == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 3
    assert runs(at_most=3, steps=4) == [4, 5, 6]
