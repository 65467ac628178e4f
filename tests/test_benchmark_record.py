"""What benchmarks write."""

import json
from pathlib import Path

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
    table = markdown([{"what": "ours", "seconds": 0.12345}, {"what": "theirs", "seconds": 12}])
    assert table.splitlines() == [
        "| what | seconds |", "| --- | --- |", "| ours | 0.123 |", "| theirs | 12 |"]  # fmt: skip
