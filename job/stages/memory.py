"""Chooses how the base is stored and says how much memory the training will take, before its weights are loaded."""

from collections.abc import Iterator

import torch

from families.precision.stored_blocks import Storage
from job.progress import Progress
from job.stage import Job
from trainer.duration import USUAL_BATCH
from trainer.memory_plan import GB, MemoryPlan, Workload, plan, remedies


def memory_plan(job: Job, images: int) -> Iterator[Progress]:
    """Set `storage` and the settings for it. Yield one line on the predicted peak of steps with up to `images` images
    at once, a warning where it is more than what is free; nothing on a CPU.

    Raises ConfigError where the weights alone are more than what is free.
    """
    free = free_memory(job.device)
    found = None if free is None else _plan(job, images, free)
    job.storage = _as_asked(job) if found is None else found.choice.storage
    offload = "always" if job.storage.offloaded else "never"
    job.config = job.config.with_values({"base_precision": job.storage.precision, "offload": offload})
    if found is None or free is None:
        return
    if found.fits(free):
        yield job.progress(f"{found}; {free / GB:.1f} GB are free")
        return
    remedy = remedies(job.config.adapters, job.config.speed, found)
    yield job.progress(f"{found}; only {free / GB:.1f} GB are free. {remedy}", warning=True)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU; None for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _plan(job: Job, images: int, free: int) -> MemoryPlan | None:
    features = job.family.encode_prompts([""]).to(torch.device("cpu"))
    work = Workload(min(job.config.train_batch_size or USUAL_BATCH, images), job.side, features)
    return plan(job.family, job.config.adapters, job.config.speed, work, free)


def _as_asked(job: Job) -> Storage:
    """Where nothing is predicted."""
    precision = job.config.base_precision
    return Storage("bf16" if precision == "auto" else precision, job.config.offload == "always")
