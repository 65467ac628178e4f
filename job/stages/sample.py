"""Sample stage: samples of the trained model, and the prediction that the file must reproduce."""

from collections.abc import Generator

from job.progress import Progress, stage_progress
from job.samples import write_samples
from job.stage import Job
from preprocess.progress import StageProgress
from sampler.sampler import Sampler


def sample(job: Job) -> Generator[Progress, None, None]:
    """Set `artifact` and `trained_prediction`; write embeddings.safetensors. The base has no adapters afterwards."""
    job.family.to(job.device)
    yield job.progress(f"sampling {job.samples.pictures} images")
    training = job.training
    with training.averaged():
        job.artifact = training.artifact()
        if job.artifact.tokens:
            job.artifact.write_embeddings(job.output.embeddings)
        write_samples(job.samples, Sampler(job.family), job.output.samples, training.triggers)
        job.trained_prediction = job.probe.predict(job.family, training.triggers)
    training.remove()
    if count := job.samples.pictures:
        yield stage_progress(StageProgress("sampling", count, count), job.span[1])
