"""The work of ranks other than 0 in a job: data preparation and training steps, without writing files."""

from collections.abc import Iterator
from pathlib import Path

from job.stage import Job
from job.stages.build import build_on_base
from job.stages.cache import encode, put_on_device, reading_ahead
from job.stages.load import load_family, start_device
from preprocess.dataset import PreparedDataset
from settings.record import ConfigError
from trainer.data.feature_shards import read_dataset
from trainer.distributed.preparation_workers import run_worker
from trainer.distributed.synchronized_steps import synchronized_steps


def follow(job: Job) -> Iterator[int]:
    """Take part in data preparation and training with the main process (`job.run`). Yields the number of each step.

    Raises the errors of `run_stages`, and ConfigError if this machine has no access to the main process's files.
    """
    start_device(job)
    load_family(job)
    help_to_prepare(job)
    job.encoders = None
    for _ in reading_ahead(job):
        pass
    encode(job, put_on_device(job))
    with job.base.main_only():  # preview
        job.family.offload_picture_parts()
    build_on_base(job)
    with job.base.main_only():  # the stages from train to evaluate: main-only except during the steps
        for step in synchronized_steps(job.training.trainer, job.processes, job.base):
            yield step.number
    job.accelerator.end_training()


def help_to_prepare(job: Job) -> None:
    """Execute the main process's tasks of data preparation, and read the dataset that it has written."""
    run_worker(job.processes)
    folder, digest = job.processes.broadcast(("", ""))
    job.dataset = _read(Path(folder), digest)


def _read(folder: Path, digest: str) -> PreparedDataset:
    if not folder.is_dir() or (dataset := read_dataset(folder)).digest() != digest:
        raise ConfigError(
            f"output: {folder} differs from the main process's folder. All machines need the same folder; give an "
            "--output on a shared disk"
        )
    return dataset
