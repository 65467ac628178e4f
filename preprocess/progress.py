"""The progress of one stage of the work."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is: `done` of `total` images, or of what `stage` names. `note`: a few words on the last one."""

    stage: str
    done: int
    total: int
    note: str = ""
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.stage}: {self.done} of {self.total}" + (f" ({self.note})" if self.note else "")
