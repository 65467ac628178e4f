"""Compares a benchmark's record with the last one of the same kind of machine, as ratios to a reference loop."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

Record = Mapping[str, Any]

KIND = ("processor", "cores", "threads", "gpu")
"""Properties that are equal for machines of the same kind."""
LEAST_NOISE = 0.1
ROUNDS = 9
TIMES, RATES, MEMORY = ("s", "ms"), ("images/s",), ("MB", "GB")
"""Last words of the columns that are compared. Times and rates depend on the load of the machine, memory does not.
"""


def reference_loop() -> dict[str, float]:
    """CPU milliseconds of a fixed piece of work in torch and Python: `ms`, the median of several rounds, and `spread`,
    the interquartile range relative to the median."""
    matrix = torch.full((384, 384), 1 / 384)

    def work() -> float:
        begun, product, total = time.process_time(), matrix, 0
        for number in range(40):
            product = torch.tanh(product @ matrix)
            total += sum(value * value for value in range(500 + number))
        return 1000 * (time.process_time() - begun)

    work()
    rounds = [work() for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles(rounds, n=4)
    return {"ms": round(middle, 3), "spread": round((high - low) / middle, 3)}


def same_kind(one: Record, other: Record) -> bool:
    """Whether two records are of the same kind of machine."""
    return all(one["machine"].get(name) == other["machine"].get(name) for name in KIND)


def comparison(before: Record, now: Record) -> Iterator[str]:
    """Yield a line about the comparison, and one for each figure that became worse by more than the noise.

    A figure is a cell in a column whose name ends with a unit; the other cells of its row identify it. Rows that are
    the ratio of two others ("ours, by theirs") are left out. The noise is the spread of the reference loops' rounds, at
    least LEAST_NOISE, plus the difference of the two loops: the loop is not the same work as the benchmark, so a figure
    that is corrected by it has this uncertainty.
    """
    since = f"commit {before['commit']} on this kind of machine"
    if before["settings"] != now["settings"]:
        yield f"not compared with {since}: it has other settings"
        return
    if "reference" not in before:
        yield f"not compared with {since}: it has no reference loop"
        return
    speed = now["reference"]["ms"] / before["reference"]["ms"]
    within = max(LEAST_NOISE, before["reference"]["spread"], now["reference"]["spread"])
    noise = within + 1 - min(speed, 1 / speed)
    earlier = dict(_figures(before["rows"]))
    worse = []
    for (row, column), value in _figures(now["rows"]):
        if (old := earlier.get((row, column))) and value and (change := _worse(column, value / old, speed)) > 1 + noise:
            worse.append(f"worse: {row}: {column}: {change:.2f} times what it was ({old:g}, now {value:g})")
    yield f"compared with {since}: the reference loop takes {speed:.2f} times as long, noise {noise:.0%}"
    yield from worse or ["nothing became worse by more than the noise"]


def _worse(column: str, ratio: float, speed: float) -> float:
    unit = column.split()[-1]
    if unit in MEMORY:
        return ratio
    return ratio / speed if unit in TIMES else 1 / (ratio * speed)


def _figures(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], float]]:
    for row in rows:
        measured = [name for name in row if name.split()[-1] in (*TIMES, *RATES, *MEMORY)]
        named = [str(value) for name, value in row.items() if name not in measured and isinstance(value, str | int)]
        name = ", ".join(value for value in named if "%" not in value)
        if " by " in f" {name} ":
            continue
        for column in measured:
            if isinstance(row[column], int | float):
                yield (name, column), float(row[column])
