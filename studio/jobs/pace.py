"""The speed of a training, measured from its output: for estimates of later ones on this machine."""

import json
from statistics import median

from pydantic import BaseModel, ConfigDict

from job.output_folder import OutputFolder
from job.report.metrics import read_metrics


class Pace(BaseModel):
    """`seconds_per_step`: the median over the run. `other_seconds`: sum of all other phases, such as loading, caching,
    samples and evaluation; None for a run that was stopped."""

    model_config = ConfigDict(frozen=True)

    seconds_per_step: float
    other_seconds: float | None = None


def pace_of(output: OutputFolder) -> Pace | None:
    """Return the pace of the run in `output`; None if it has no steps."""
    seconds = [row["seconds_per_step"] for row in read_metrics(output.metrics) if row.get("seconds_per_step")]
    if not seconds:
        return None
    step = float(median(seconds))
    if not output.report.is_file() or not output.report.stat().st_size:
        return Pace(seconds_per_step=step)
    report = json.loads(output.report.read_text(encoding="utf-8"))
    return Pace(seconds_per_step=step, other_seconds=max(0.0, report["seconds"] - step * report["steps"]))
