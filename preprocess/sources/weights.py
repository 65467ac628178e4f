"""Shares of several sources: integer repeats that approximate the weights."""

from collections import Counter
from collections.abc import Mapping, Sequence

FINEST = 8
"""The largest factor of the source that is repeated least: more of it would only make epochs longer."""


def share_factors(seen: Mapping[int, int], weights: Sequence[float]) -> dict[int, int]:
    """By which factor the repeats of each source are multiplied, so that it has its weight of what is seen.

    `seen`: images times repeats, by the number of the source. Of the scales that are tried, the one whose shares are
    nearest is taken, and of equal ones the smallest.
    """
    ideal = {source: weights[source] / count for source, count in seen.items()}
    least = min(ideal.values())
    scales = [
        {source: max(1, round(scale * each / least)) for source, each in ideal.items()}
        for scale in range(1, FINEST + 1)
    ]
    return min(scales, key=lambda factors: round(_largest_error(seen, factors, weights), 6))


def shares(seen: Mapping[int, int], factors: Mapping[int, int]) -> dict[int, float]:
    """The part of all that is seen, by the number of the source."""
    total = sum(count * factors[source] for source, count in seen.items())
    return {source: count * factors[source] / total for source, count in seen.items()}


def share_lines(names: Sequence[str], seen: Mapping[int, int], factors: Mapping[int, int]) -> list[str]:
    """A line for each source: its images, and its part of what is seen."""
    return [
        f"{names[source].rstrip('/')}: {share:.1%} of what is seen (repeats × {factors[source]})"
        for source, share in sorted(shares(seen, factors).items())
    ]


def count_by_source(repeats: Sequence[tuple[int, int]]) -> Counter[int]:
    """Sum of repeats by the number of the source."""
    counter: Counter[int] = Counter()
    for source, times in repeats:
        counter[source] += times
    return counter


def _largest_error(seen: Mapping[int, int], factors: Mapping[int, int], weights: Sequence[float]) -> float:
    """The largest relative difference between a share and the one that its weight asks for."""
    total = sum(weights[source] for source in seen)
    return max(abs(share * total / weights[source] - 1) for source, share in shares(seen, factors).items())
