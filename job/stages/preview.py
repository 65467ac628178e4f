"""Preview stage: samples and the reference prediction of the base model."""

from collections.abc import Generator

from evaluation.looks import sample_looks
from families.family import restoring
from job.progress import Progress
from job.samples import write_samples_before
from job.stage import Job
from job.verification.verify import Probe
from sampler.sampler import Sampler


def preview(job: Job) -> Generator[Progress, None, None]:
    """Set `probe`, `base_prediction` and `looks`."""
    job.probe = Probe.make(job.family, job.samples.prompt)
    job.base_prediction = job.probe.predict(job.family, {})
    if not job.config.is_controlnet and restoring(job.family) is None:  # their samples are compared with images instead
        write_samples_before(job.samples, Sampler(job.family), job.output.samples_before)
    if job.config.stop_when_settled and job.encoders is not None:
        config, dataset = job.config, job.dataset
        job.looks = sample_looks(
            config.validation, config.preparation, config.base_model, job.family, dataset, job.encoders
        )
    if job.config.sample_steps is None and job.looks is None:
        job.family.offload_picture_parts()  # not needed until the final samples
    yield from ()
