"""The stored record of a job."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from studio.jobs.pace import Pace

State = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
Request = Literal["pause", "cancel"]
ENDED: tuple[State, ...] = ("paused", "done", "failed", "cancelled")


class JobRecord(BaseModel):
    """One training of the queue.

    `dataset`: a prepared dataset. `settings`: the arguments of train.py. `pid` and `started` (seconds since the epoch,
    by the system) identify its process. `request`: the page's request to a running job. `error`: why it failed. `pace`:
    as measured when the job ended.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    dataset: Path
    output: Path
    settings: dict[str, Any]
    state: State = "queued"
    request: Request | None = None
    pid: int | None = None
    started: float | None = None
    error: str = ""
    pace: Pace | None = None

    def having(self, **values: Any) -> "JobRecord":
        """Return the record with changed, validated values."""
        return JobRecord(**(self.model_dump() | values))
