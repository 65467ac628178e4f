"""Verify stage: reads the file back onto the bare base and compares."""

from collections.abc import Generator

from job.progress import Progress
from job.stage import Job
from job.verification.verify import verify as compare


def verify(job: Job) -> Generator[Progress, None, None]:
    """Fills verification."""
    yield job.progress("verifying the artifact")
    job.verification = compare(
        job.output.weights, job.family, job.probe, job.base_prediction, job.trained_prediction, job.artifact
    )
    difference = f"relative difference {job.verification.difference:.1e}"
    yield job.progress(f"verified: the file does what the training did ({difference})", 1.0)
