"""Tests of the progress display: few lines in a log, and one line that is rewritten on a terminal."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from itertools import pairwise

import pytest

from job.progress import Progress
from preprocess.progress import StageProgress
from preprocess.progress_lines import SECONDS_BETWEEN_LINES, Pace, Report, progress_display
from tests.conftest import PROJECT

STAGES = ("reading the images", "captioning with blip", "cutting the images", "caching the latents", "training")
EVENTS = 1000
THOUSAND = """
import time
from job.progress import Progress
from preprocess.progress import StageProgress
from preprocess.progress_lines import progress_display

with progress_display() as show:
    show(Progress("loading the base model", 0.0))
    for stage in ("reading the images", "cutting the images"):
        for done in range(1, 1001):
            show(StageProgress(stage, done, 1000))
            if done == 500:
                time.sleep(0.2)
                show(StageProgress(stage, done, 1000))
                show(Progress("a caption is long", 0.0, warning=True))
    show(Progress("step 7/7: loss 0.5", 0.9, step=7, loss=0.5, stage="training", done=7, total=7))
print("weights.safetensors")
"""


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(show: Callable[[Report], bool], clock: Clock, seconds_each: float) -> dict[str, list[float]]:
    """Return when each stage prints a line, if each has 1,000 reports that are `seconds_each` apart."""
    printed: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for stage in STAGES:
        for done in range(1, EVENTS + 1):
            clock.now += seconds_each
            if show(StageProgress(stage, done, EVENTS)):
                printed[stage].append(clock.now)
    return printed


@pytest.mark.parametrize(("seconds_each", "most"), [(0.0, 2), (0.001, 2), (0.1, 22), (1.0, 202), (10.0, 1000)])
def test_a_thousand_reports_of_any_stage_are_few_lines(seconds_each: float, most: int) -> None:
    clock = Clock()
    printed = lines_of(Pace(clock).is_due, clock, seconds_each)
    for stage, times in printed.items():
        assert 1 <= len(times) <= most, stage
        between = [later - earlier for earlier, later in pairwise(times[:-1])]
        assert all(seconds >= SECONDS_BETWEEN_LINES for seconds in between)
    total = sum(map(len, printed.values()))
    assert total <= len(STAGES) * (EVENTS * seconds_each / SECONDS_BETWEEN_LINES + 2)
    assert all(times[-1] == pytest.approx((number + 1) * EVENTS * seconds_each) for number, times in
               enumerate(printed.values()))  # fmt: skip


def test_slow_reports_are_all_printed() -> None:
    clock = Clock()
    assert sum(map(len, lines_of(Pace(clock).is_due, clock, 10.0).values())) == len(STAGES) * EVENTS


def test_texts_of_no_stage_are_always_printed_and_delay_nothing() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.is_due(StageProgress("reading", 1, 9))
    clock.now = SECONDS_BETWEEN_LINES
    assert all(pace.is_due(Progress("text", 0.1)) for _ in range(10))
    assert pace.is_due(StageProgress("reading", 2, 9)) and not pace.is_due(StageProgress("reading", 3, 9))


def test_lines_elsewhere_than_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display() as show:
        for done in range(1, EVENTS + 1):
            show(StageProgress("reading the images", done, EVENTS))
        show(Progress("small", 0.1, warning=True))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "reading the images: 1 of 1000", "reading the images: 1000 of 1000", "warning: small",
    ]  # fmt: skip
    assert printed.err == ""


def test_quiet_prints_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(quiet=True) as show:
        show(Progress("loading", 0.0))
        show(StageProgress("reading", 9, 9))
        show(Progress("small", 0.1, warning=True))
    assert capsys.readouterr().out == "warning: small\n"


def on_a_terminal(script: str) -> str:
    """Return what the script prints on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=theirs, stderr=theirs,
                               stdin=subprocess.DEVNULL)  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_one_line_is_rewritten_on_a_terminal() -> None:
    shown = on_a_terminal(THOUSAND)
    lines = [line.rsplit("\r", 1)[-1].strip() for line in shown.replace("\r\n", "\n").rstrip().split("\n")]
    assert [line.partition("|")[0].strip() for line in lines] == [
        "loading the base model",
        "warning: a caption is long",
        "reading the images: 100%",
        "warning: a caption is long",
        "cutting the images: 100%",
        "training: 100%",
        "weights.safetensors",
    ]
    assert "loss 0.5000" in lines[-2] and "1000/1000" in lines[2]
    drawn = [part for part in shown.split("\r") if part.startswith("reading the images: ")]
    assert 3 <= len(drawn) < 20  # the line is rewritten several times, but not for every report
