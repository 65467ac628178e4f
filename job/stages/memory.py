"""Selects how the base model is stored and predicts the memory of the training, before the weights are loaded."""

from collections.abc import Iterator

import torch

from families.precision.stored_blocks import Storage
from job.progress import Progress
from job.stage import Job
from trainer.duration import USUAL_BATCH
from trainer.execution.throughput import throughput
from trainer.memory_plan import GB, MemoryPlan, Workload, plan, remedies


def memory_plan(job: Job, images: int) -> Iterator[Progress]:
    """Set `storage`, `plan` and the settings for them. Yield one line on the predicted peak memory and time of steps
    with up to `images` images, as a warning if the peak exceeds the free memory; nothing on a CPU.

    Raises ConfigError if the weights alone exceed the free memory.
    """
    free = free_memory(job.device)
    found = None if free is None else _plan(job, images, free)
    job.storage = _as_requested(job) if found is None else found.choice.storage
    offload = "always" if job.storage.offloaded else "never"
    job.config = job.config.with_values({"base_precision": job.storage.precision, "offload": offload})
    if found is None or free is None:
        return
    said = f"{found}; {throughput(job.device, job.dtype).said(found.operations)}"
    job.plan = said
    if found.fits(free):
        yield job.progress(f"{said}; {free / GB:.1f} GB are free")
        return
    remedy = remedies(job.config.adapters, job.config.speed, found)
    yield job.progress(f"{said}; only {free / GB:.1f} GB are free. {remedy}", warning=True)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU; None for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _plan(job: Job, images: int, free: int) -> MemoryPlan | None:
    features = job.family.encode_prompts([""]).to(torch.device("cpu"))
    at_once = min(job.config.train_batch_size or USUAL_BATCH, images)
    work = Workload(at_once, job.side, features, job.config.gradient_accumulation_steps)
    return plan(job.family, job.config.adapters, job.config.speed, work, free)


def _as_requested(job: Job) -> Storage:
    """Return the storage as set, if nothing is predicted."""
    precision = job.config.base_precision
    return Storage("bf16" if precision == "auto" else precision, job.config.offload == "always")
