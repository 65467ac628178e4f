"""Says how much memory the training will take on a GPU, before the denoiser's weights are loaded."""

from collections.abc import Iterator

import torch

from job.progress import Progress
from job.stage import Job
from trainer.memory_plan import GB, Workload, plan

USUAL_BATCH = 4
"""Images of a micro-batch where train_batch_size is open (trainer/duration.py)."""


def memory_plan(job: Job) -> Iterator[Progress]:
    """Yield one line on the predicted peak, a warning where it is more than what is free; nothing on a CPU.

    Raises ConfigError where the weights alone are more than what is free.
    """
    if job.device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(job.device)
    images = min(job.config.train_batch_size or USUAL_BATCH, len(job.dataset.examples))
    features = job.family.encode_prompts([""]).to(torch.device("cpu"))
    found = plan(job.family, job.config.adapters, job.config.speed, Workload(images, job.side, features), free)
    if found is None:
        return
    if found.fits(free):
        yield job.progress(f"{found}; {free / GB:.1f} GB are free")
        return
    remedy = "set a smaller resolution or rank, or train on a larger GPU"
    yield job.progress(f"{found}; only {free / GB:.1f} GB are free: {remedy}", warning=True)
