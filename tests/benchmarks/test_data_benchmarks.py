"""Tests that the benchmarks of data preparation run, and that the claims of their tables hold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.preparation import buckets, data, streaming, watching


def test_the_sizes_of_photographs_are_few_and_crop_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert buckets.main(["--results", str(tmp_path)]) == 0
    few, _, many = json.loads((tmp_path / "buckets.json").read_text(encoding="utf-8"))["rows"]
    assert few["photographs"] == 30 and few["sizes"] <= 10
    assert many["photographs"] == 1400 and many["mean crop %"] <= 2
    assert "| 1400 |" in capsys.readouterr().out


@pytest.mark.slow
def test_preparation_is_measured_from_folders_and_shards(tmp_path: Path) -> None:
    assert data.main(["--cases", "6x64", "shards/2:6x64@2x1", "--results", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["from"], row["images"]) for row in rows] == [("folder", 6), ("3 shards", 6)]
    assert [row["processes"] for row in rows] == [1, 2]
    assert all(row["images/s"] > 0 and row["peak MB"] >= row["of it at start"] for row in rows)
    assert len({row["sizes"] for row in rows}) == 1


def test_a_case_that_is_none_shows_the_form() -> None:
    assert data.Case.parse("shards:6x64") == data.Case(6, 64, in_a_shard=data.IMAGES_IN_A_SHARD)
    with pytest.raises(ValueError, match="@PROCESSESxTHREADS"):
        data.Case.parse("shards/2:6@2x1")


def test_an_encoding_process_is_watched_from_outside() -> None:
    line = "1/1 a.tar: 3 images, 0 files not used"
    program = f"import time; held = b'x' * 10**7; print({line!r}, flush=True); time.sleep(1.5)"
    watch = watching.watched([sys.executable, "-c", program, "encode"])
    assert len(watch.lines) == 1 and watch.lines[0] < watch.seconds
    assert 10 < watch.peak(0, watch.seconds) < 500 and watch.peak(watch.seconds + 1, watch.seconds + 2) == 0
    with pytest.raises(subprocess.CalledProcessError):
        watching.watched([sys.executable, "-c", "raise SystemExit(2)"])


def test_cpu_time_of_a_watched_command_counts_until_it_is_killed(tmp_path: Path) -> None:
    line, over = "1/2 a.tar: 3 images, 0 files not used", tmp_path / "over"
    work = "start = time.process_time()\nwhile time.process_time() - start < 1.2: pass"
    program = f"import pathlib, time\n{work}\nprint({line!r}, flush=True)\n{work}\npathlib.Path({str(over)!r}).touch()"
    watch = watching.watched([sys.executable, "-c", program, "encode"], kill_after=1)
    assert len(watch.lines) == 1 and not over.exists()
    assert 0.5 < watch.cpu(0, watch.seconds) < 2.4 and watch.cpu(0, 0) == 0
    moments = [watching.Moment(float(second), 1.0, 10.0 * second, 1.0) for second in (1, 2)]
    assert watching.Watch(moments=moments).cpu(0.5, 1.5) == pytest.approx(10)


def test_the_stages_of_a_shard_add_up(tmp_path: Path) -> None:
    stages = streaming.stages_at(64, 3, tmp_path)
    assert stages["side"] == 64 and stages["images"] == 3
    parts = [value for name, value in stages.items() if name.endswith(" ms") and name != "CPU ms"]
    assert len(parts) == 7 and min(parts) >= 0 and sum(parts) == pytest.approx(stages["CPU ms"], abs=0.1)
