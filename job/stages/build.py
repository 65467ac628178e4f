"""Build stage: adds adapter and tokens to the base, and restores the checkpoint of a resumed run."""

from collections.abc import Generator

from job.progress import Progress
from job.stage import Job
from trainer.building import build_training
from trainer.checkpoints.training_state import restore
from trainer.duration import describe


def build(job: Job) -> Generator[Progress, None, None]:
    """Set `training`, and the configuration with all values filled in."""
    build_on_base(job)
    job.config = job.training.config
    job.output.write_config(job.config)
    if job.state is not None:
        yield job.progress(f"resuming after step {job.training.trainer.step}")
        if job.training.trainer.step >= job.training.trainer.max_train_steps:
            yield job.progress(
                "all steps are already trained; set a higher max_train_steps with --resume to train more", warning=True
            )
    for note in job.training.notes:
        yield job.progress(note, warning=note.startswith("init_weights"))
    if job.training.held_out is not None:
        yield job.progress(f"validating on {job.training.held_out.description}")
    plan = describe(job.config.duration, len(job.dataset.largest), job.processes.share.count)
    yield job.progress(f"training on {job.device}: {plan}")


def build_on_base(job: Job) -> None:
    """Build the training on the base model. Called by all processes."""
    job.training = build_training(
        job.config, job.family, job.dataset, job.examples, job.accelerator, job.initial, job.training_adapter, job.base
    )
    if job.state is not None:
        restore(job.training, job.state)
