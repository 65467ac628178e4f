"""Differences of paired runs, such as of two ways to train the same concept with the same seed."""

import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy import stats

from benchmarks.record import Row

Pair = TypeVar("Pair", bound=Hashable)
Option = TypeVar("Option", bound=Hashable)
LEVEL = 0.05
"""Of significance."""
ROUNDING = 1e-9
"""Smaller means and deviations are 0."""


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
    def p_value(self) -> float:
        """Of a two-sided paired t-test against a mean of 0. 1 for one pair, which shows nothing."""
        if self.count < 2 or abs(self.mean) < ROUNDING:
            return 1.0
        if self.deviation < ROUNDING:
            return 0.0
        return float(2 * stats.t.sf(abs(self.mean) * self.count**0.5 / self.deviation, self.count - 1))

    def cell(self, significant: bool, digits: int = 2) -> str:
        """Markdown: the mean ± the standard deviation, in bold if it is significant."""
        text = f"{self.mean:+z.{digits}f} ± {self.deviation:.{digits}f}"
        return f"**{text}**" if significant else text


def differences(rows: Mapping[Pair, Row], reference: Mapping[Pair, Row], names: Iterable[str]) -> dict[str, Difference]:
    """Return what `rows` differ from the reference in each measure. `reference` has a row for each key of `rows`."""
    return {name: Difference.of([row[name] - reference[pair][name] for pair, row in rows.items()]) for name in names}


def significant(of_options: Mapping[Option, Difference]) -> set[Option]:
    """Return the options whose difference is significant, with a false discovery rate of at most LEVEL among them.

    Benjamini and Hochberg 1995, "Controlling the false discovery rate". With one option it is the t-test itself.
    """
    if not of_options:
        return set()
    adjusted = stats.false_discovery_control([each.p_value for each in of_options.values()])
    return {option for option, p_value in zip(of_options, adjusted, strict=True) if p_value < LEVEL}
