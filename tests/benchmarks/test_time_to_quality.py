"""Tests of the search for the shortest training with a good result, and of its page."""

from pathlib import Path

import pytest

from benchmarks.concepts.time_to_quality import GOOD, LENGTHS, is_good, shortest_good, summary, write_page
from benchmarks.record import Row


def _row(steps: int, good: bool) -> Row:
    measures = {name: least + (0.01 if good else -0.01) for name, least in GOOD.items()}
    return {"seconds": steps / 10, "CPU seconds": steps / 20, "kept": 0.9, "copies": 0.0, **measures}


@pytest.mark.parametrize("needed", [1, 76, 300, 840])
def test_the_shortest_good_length_is_found_with_few_trainings(needed: int) -> None:
    trained: list[int] = []

    def trial(steps: int) -> Row:
        trained.append(steps)
        return _row(steps, steps >= needed)

    found = shortest_good(trial, LENGTHS)
    assert found["steps"] == min(steps for steps in LENGTHS if steps >= needed)
    assert found["seconds"] == found["steps"] / 10
    assert len(set(trained)) <= 4


def test_a_concept_that_is_never_good_has_no_length() -> None:
    found = shortest_good(lambda steps: _row(steps, False), LENGTHS)
    assert found["steps"] is None and found["seconds"] == LENGTHS[-1] / 10


@pytest.mark.parametrize("name", GOOD)
def test_a_result_that_misses_one_bar_is_not_good(name: str) -> None:
    good = dict(_row(50, True))
    assert is_good(good) and not is_good(good | {name: GOOD[name] - 0.001})


def test_a_median_counts_what_was_not_reached_as_longest(tmp_path: Path) -> None:
    def rows(way: str, *found: int | None) -> list[Row]:
        return [
            {"concept": f"{index}: figure", "way": way, "steps": steps, **_row(steps or LENGTHS[-1], steps is not None)}
            for index, steps in enumerate(found)
        ]

    every = [*rows("a", 50, 250, None), *rows("b", None, None, 75)]
    a, b = summary(every)
    assert (a["reached"], a["median steps"], a["worst steps"], a["median seconds"]) == (
        "2 of 3",
        "250",
        "not reached",
        "25",
    )
    assert (b["reached"], b["median steps"]) == ("1 of 3", "not reached")
    write_page(tmp_path / "page.md", every, (0, 1, 2), {"abc"})
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| 2: figure | a | not reached in 840 |" in text and "seeds 0 to 2" in text
