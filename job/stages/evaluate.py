"""Evaluate stage: selects the best checkpoint after the file is verified."""

from collections.abc import Generator

from job.evaluating import evaluating
from job.progress import Progress
from job.stage import Job


def evaluate(job: Job) -> Generator[Progress, None, None]:
    """Set `evaluation`, None without an evaluation."""
    job.evaluation = None
    if job.encoders is None or not job.config.evaluates_checkpoints:
        return
    config, step = job.config, job.training.trainer.step
    job.evaluation = yield from evaluating(
        config.validation,
        config.preparation,
        config.base_model,
        job.samples,
        job.family,
        job.dataset,
        job.output,
        job.encoders,
        step,
        job.span,
    )
