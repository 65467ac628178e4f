"""Weights of several sources, approximated by integer repeats."""

from collections import Counter
from collections.abc import Mapping, Sequence

FINEST = 8
"""Largest factor of the source with the fewest repeats: larger ones would only make epochs longer."""


def share_factors(seen: Mapping[int, int], weights: Sequence[float]) -> dict[int, int]:
    """Return the factors of the sources' repeats for which their shares of the seen images match the weights.

    `seen`: images times repeats, by the number of the source. Of all scales, the one with the nearest shares is used,
    and of equal ones the smallest.
    """
    ideal = {source: weights[source] / count for source, count in seen.items()}
    least = min(ideal.values())
    scales = [
        {source: max(1, round(scale * each / least)) for source, each in ideal.items()}
        for scale in range(1, FINEST + 1)
    ]
    return min(scales, key=lambda factors: round(_largest_error(seen, factors, weights), 6))


def shares(seen: Mapping[int, int], factors: Mapping[int, int]) -> dict[int, float]:
    """Return the share of all seen images, by the number of the source."""
    total = sum(count * factors[source] for source, count in seen.items())
    return {source: count * factors[source] / total for source, count in seen.items()}


def share_lines(names: Sequence[str], seen: Mapping[int, int], factors: Mapping[int, int]) -> list[str]:
    """Return a line for each source with its share of the training images."""
    return [
        f"{names[source].rstrip('/')}: {share:.1%} of the training images (repeats × {factors[source]})"
        for source, share in sorted(shares(seen, factors).items())
    ]


def count_by_source(repeats: Sequence[tuple[int, int]]) -> Counter[int]:
    """Sum the repeats by the number of the source."""
    counter: Counter[int] = Counter()
    for source, times in repeats:
        counter[source] += times
    return counter


def _largest_error(seen: Mapping[int, int], factors: Mapping[int, int], weights: Sequence[float]) -> float:
    """Return the largest relative difference between a share and its weight."""
    total = sum(weights[source] for source in seen)
    return max(abs(share * total / weights[source] - 1) for source, share in shares(seen, factors).items())
