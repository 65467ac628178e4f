"""The columns of a grid of images: scales of one file, or the checkpoints of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from studio import texts

WEIGHTS = "weights.safetensors"
BY_SCALE, BY_CHECKPOINT = "scale", "checkpoint"
Picture = tuple[str, str]
"""Path and caption."""


@dataclass(frozen=True)
class Column:
    """All images of a column are generated with these weights, a path below the runs' folder, at this scale."""

    weights: str
    scale: str
    label: str


def columns_of(choices: Sequence[tuple[str, str]], chosen: str, scales: Sequence[str], kind: str) -> list[Column]:
    """Return the columns for a chosen file. `choices`: labels and paths of all files, as in the list on the page.
    Checkpoints are in their order, the result of the run last.

    Raises ValueError if several scales are given for checkpoints.
    """
    if kind == BY_SCALE:
        return [Column(chosen, scale, scale) for scale in scales]
    if len(scales) != 1:
        raise ValueError(texts.ONE_SCALE)
    run = chosen.partition("/")[0]
    files = [(label, path) for label, path in choices if path.partition("/")[0] == run]
    files.sort(key=lambda file: file[1] == f"{run}/{WEIGHTS}")
    return [Column(path, scales[0], label) for label, path in files]


def compared_scales(scales: Sequence[str]) -> tuple[str, str]:
    """Return the scales of before and after: 0, and the last of the given ones.

    Raises ValueError if that is missing or 0.
    """
    after = scales[-1] if scales else "0"
    if _is_zero(after):
        raise ValueError(texts.COMPARED_SCALE)
    return "0", after


def pairs_of(pictures: Sequence[str]) -> list[tuple[str, str]]:
    """Return the complete rows of a grid with two columns."""
    return list(zip(pictures[::2], pictures[1::2], strict=False))


def _is_zero(scale: str) -> bool:
    try:
        return float(scale) == 0
    except ValueError:  # such as recommended; invalid scales are reported when the image is generated
        return False
