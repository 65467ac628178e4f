"""The progress of one stage of the work."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage: `done` of `total` images, or of the unit in `stage`. `note`: a few words on the last
    item."""

    stage: str
    done: int
    total: int
    note: str = ""
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.stage}: {self.done} of {self.total}" + (f" ({self.note})" if self.note else "")
