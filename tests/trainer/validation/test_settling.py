"""Tests of when a run with `stop_when_settled` ends, by the measures of its samples."""

from typing import Any

import pytest

from evaluation.choice import Relative
from evaluation.looks import behind
from trainer.validation.settling import Settling


def look(
    fidelity: float, kept: float = 0.95, following: float = 1.0, error: float = 0.0, copied: float = 0.0
) -> Relative:
    quality = (fidelity * following * kept) ** (1 / 3) * (1 - copied / 2)
    return Relative(fidelity, following, kept, quality, error, copied)


@pytest.mark.parametrize(
    ("looks", "reason", "after"),
    [
        ([look(x) for x in (0.1, 0.4, 0.6, 0.7, 0.8)], None, 5),  # still rising
        ([look(x) for x in (0.2, 0.6, 0.8, 0.81, 0.8)], "settled", 5),
        ([look(x) for x in (0.6, 0.7, 0.7, 0.74, 0.7, 0.7)], "settled", 6),  # a rise within the patience counts
        ([look(x) for x in (0.1, 0.1, 0.1, 0.1, 0.1)], None, 5),  # not learned yet, so not settled
        ([look(0.6), look(0.8, kept=0.75)], None, 2),  # likeness has gained more than other prompts have lost
        ([look(0.6), look(0.61, kept=0.7)], "lost", 2),
        ([look(0.6), look(0.61, following=0.7)], "lost", 2),
        ([look(0.6), look(0.7, copied=0.25)], "lost", 2),
    ],
)
def test_it_ends_where_likeness_has_settled_or_prompts_are_lost(
    looks: list[Relative], reason: str | None, after: int
) -> None:
    settling = Settling.of(1200)
    assert settling.interval == 100 and not settling.due(150) and settling.due(300)
    ended = [settling.observe(100 * number, each) for number, each in enumerate(looks, 1)]
    assert settling.reason == reason and settling.looks[-1].step == 100 * after
    assert ended == [False] * (len(looks) - 1) + [reason is not None]
    assert settling.due(100 * len(looks) + 100) == (reason is None)


def test_falling_held_out_loss_delays_the_end() -> None:
    for improving in (True, False):
        settling = Settling(10)
        for step in (10, 20, 30):
            settling.observe(step, look(0.8), improving=improving)
        assert settling.reason == (None if improving else "settled")


def test_the_state_is_restored() -> None:
    settling, restored = Settling(10), Settling(10)
    for step, fidelity in ((10, 0.5), (20, 0.9), (30, 0.89), (40, 0.9)):
        settling.observe(step, look(fidelity))
    restored.load_state_dict(settling.state_dict())
    assert restored == settling and restored.reason == "settled"
    assert restored.best is not None and restored.best.step == 20


def test_of_several_concepts_the_one_behind_counts() -> None:
    first, second = look(0.9, kept=0.8, error=0.01), look(0.3, kept=0.9, error=0.05, copied=0.1)
    lowest: Any = behind([first, second])
    assert (lowest.fidelity, lowest.kept, lowest.error, lowest.copied) == (0.3, 0.8, 0.05, 0.1)
    assert lowest.quality == second.quality
