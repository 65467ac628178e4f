"""Cache stage: encodes the images once; all steps read the cached latents."""

from collections.abc import Generator, Iterator

import torch

from families.family import frozen_reader
from families.precision.stored_blocks import place
from job.known_prompts import known_prompts
from job.progress import Progress, stage_progress
from job.stage import Job
from job.stages.memory import memory_plan
from preprocess.workers.relay import relay
from trainer.data.latent_cache import count_views
from trainer.data.latent_store import LatentPlace, encode_dataset, encoding_dataset, latent_place
from trainer.distributed.sharded_base import place_base


def cache(job: Job) -> Generator[Progress, None, None]:
    """Set `examples` and `base`. Afterwards the weights are on their devices."""
    for count in reading_ahead(job):
        yield job.progress(f"encoding {count} prompts")
    yield from memory_plan(job, len(job.dataset.examples))
    place = put_on_device(job)
    where = "in memory" if place == "memory" else "on disk"
    yield job.progress(f"caching the latents of {count_views(job.dataset.examples)} images {where}")
    first, last = job.span
    encoding = encoding_dataset(job.dataset, job.family, place, job.output.latents, job.processes)
    job.examples = yield from relay(
        encoding, lambda report: stage_progress(report, first + (last - first) * report.done / report.total)
    )


def reading_ahead(job: Job) -> Iterator[int]:
    """Encode the known prompts with frozen text encoders, and free these before the denoiser is loaded. Prompts that an
    earlier part of the run has encoded are read from the output folder.

    Yields the number of prompts before encoding them.
    """
    reader = frozen_reader(job.family)
    if reader is not None:
        reader.keep_prompts(job.output.prompts)
        prompts = known_prompts(job)
        yield len(prompts)
        reader.read_ahead(prompts)


def put_on_device(job: Job) -> LatentPlace:
    """Move the base model, or this rank's shard of it, to the device, with the storage chosen by the main process.

    Returns where the latents are stored.
    """
    if job.config.shard_base:  # every rank loads its shard of the whole base model
        job.family.to(torch.device("cpu"))
    job.base = place_base(job.config.shard_base, job.family, job.processes)
    place(job.family, job.processes.broadcast(job.storage), job.device)
    return latent_place(job.config.latent_cache, job.dataset, job.family, job.processes)


def encode(job: Job, place: LatentPlace) -> None:
    """Encode this rank's part of the latents if they are stored on disk. For ranks other than 0."""
    job.examples = encode_dataset(job.dataset, job.family, place, job.output.latents, job.processes)
