"""Train stage: all steps, and the artifact."""

import shutil
from collections.abc import Generator

from job.progress import Progress
from job.stage import Job
from job.steps.length import Length
from job.steps.training import train as train_steps
from job.trackers import followed, start_trackers
from settings.public import public_settings


def train(job: Job) -> Generator[Progress, None, None]:
    """Write weights.safetensors. `job.steps.training` writes checkpoints, scores and samples during training."""
    config, output, first = job.config, job.output, job.training.trainer.step
    trackers = start_trackers(config.trackers, public_settings(config), output, first)
    length = Length(job.training, job.looks)
    if (note := length.begin()) is not None:
        yield job.progress(note, warning=True)
    events = train_steps(job.training, output, job.samples, job.base, job.span, length)
    yield from followed(events, trackers, output, first)
    shutil.rmtree(output.latents, ignore_errors=True)
