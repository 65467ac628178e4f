"""Train stage: all steps, and the artifact."""

import shutil
from collections.abc import Generator

from job import steps
from job.progress import Progress
from job.stage import Job
from job.trackers import followed, start_trackers
from settings.public import public_settings


def train(job: Job) -> Generator[Progress, None, None]:
    """Write weights.safetensors. `job.steps` writes checkpoints, scores and samples during training."""
    config, output, first = job.config, job.output, job.training.trainer.step
    trackers = start_trackers(config.trackers, public_settings(config), output, first)
    events = steps.train(job.training, output, job.samples, job.base, job.span)
    yield from followed(events, trackers, output, first)
    shutil.rmtree(output.latents, ignore_errors=True)
