"""Differences of paired runs, such as of two ways to train the same concept with the same seed."""

import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.record import Row

Pair = TypeVar("Pair", bound=Hashable)
STUDENTS_T = (12.71, 4.3, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.2, 2.18, 2.16, 2.14, 2.13)
"""Two-sided, 5 %, for 1 to 15 degrees of freedom; beyond, LARGE."""
LARGE = 2.1


@dataclass(frozen=True)
class Difference:
    """Of an option from the reference, over paired runs: mean, standard deviation, and number of pairs."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Difference":
        """Of at least one pair."""
        spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
        return cls(statistics.mean(differences), spread, len(differences))

    @property
    def is_significant(self) -> bool:
        """Whether a paired t-test rejects a mean of 0 at 5 %. False for one pair."""
        if self.count < 2:
            return False
        t = STUDENTS_T[self.count - 2] if self.count - 2 < len(STUDENTS_T) else LARGE
        return abs(self.mean) > t * self.deviation / self.count**0.5 + 1e-9

    def cell(self, digits: int = 2) -> str:
        """Markdown: the mean ± the standard deviation, in bold if it is significant."""
        text = f"{self.mean:+z.{digits}f} ± {self.deviation:.{digits}f}"
        return f"**{text}**" if self.is_significant else text


def differences(rows: Mapping[Pair, Row], reference: Mapping[Pair, Row], names: Iterable[str]) -> dict[str, Difference]:
    """Return what `rows` differ from the reference in each measure. `reference` has a row for each key of `rows`."""
    return {name: Difference.of([row[name] - reference[pair][name] for pair, row in rows.items()]) for name in names}
