"""The progress of data preparation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PreparationProgress:
    """How far preparation is: `done` of `total` images in this stage."""

    stage: str
    done: int
    total: int
