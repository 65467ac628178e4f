"""Reads metrics.jsonl into columns. Any value of a row may be missing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Series = dict[str, tuple[list[int], list[float]]]
"""Steps and values by name."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows. An unfinished last line of a killed job is ignored."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def steps_done(path: Path, planned: int) -> int:
    """Return the number of steps of a run by its metrics, which early stopping may have ended before the `planned`
    ones; `planned` without metrics."""
    rows = read_metrics(path)
    return rows[-1]["step"] if rows else planned


def series(rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Return the values under `key` by step: one series for a number, one per name for a mapping of numbers."""
    found: Series = {}
    for row in rows:
        value = row.get(key)
        values = value if isinstance(value, Mapping) else {key: value}
        for name, number in values.items():
            if isinstance(number, int | float) and not isinstance(number, bool):
                steps, numbers = found.setdefault(str(name), ([], []))
                steps.append(row["step"])
                numbers.append(float(number))
    return found


def smoothed(values: Sequence[float], weight: float = 0.95) -> list[float]:
    """Return the exponential moving average with bias correction, as in Adam."""
    mean, total, result = 0.0, 0.0, []
    for value in values:
        mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        result.append(mean / total)
    return result
