"""Sample stage: samples of the trained model, and the prediction that the file must reproduce."""

from collections.abc import Generator, Iterator
from typing import Any

from artifact.controlnet.files import write_controlnet_folder
from artifact.controlnet.names import in_diffusers
from families.family import restoring
from job.controlnet.samples import sample_conditions, write_control_samples
from job.controlnet.verification import controlled_prediction
from job.embedding_files import write_embedding_files
from job.progress import Progress, stage_progress
from job.restoring.outcome import Restoration
from job.restoring.samples import Originals, originals_of, write_originals, write_restored
from job.samples import write_samples
from job.stage import Job
from preprocess.progress import StageProgress
from sampler.sampler import Sampler


def sample(job: Job) -> Generator[Progress, None, None]:
    """Set `artifact`, `trained_prediction` and `restoration`; write embeddings.safetensors. The base has no adapters
    afterwards."""
    job.family.to(job.device)
    yield job.progress(f"sampling {job.samples.pictures} images")
    training = job.training
    originals = None if restoring(job.family) is None else originals_of(training, job.samples)
    with training.averaged(), training.as_used():
        job.artifact = training.artifact()
        write_embedding_files(job.artifact, job.output)
        after = None if originals is None else write_restored(originals, job.samples, job.family, job.output.samples)
        if training.controlnet is not None:
            _sample_controlnet(job, training.controlnet.module)
        else:
            if originals is None:
                write_samples(job.samples, Sampler(job.family), job.output.samples, training.triggers)
            job.trained_prediction = job.probe.predict(job.family, training.triggers)
    training.remove()
    if originals is not None:
        yield from _restored_before(job, originals, after)
    if count := job.samples.pictures:
        yield stage_progress(StageProgress("sampling", count, count), job.span[1])


def _restored_before(job: Job, originals: Originals, after: float | None) -> Iterator[Progress]:
    """Reconstruct the same images with the base model."""
    write_originals(originals, job.output.samples)
    before = write_restored(originals, job.samples, job.family, job.output.samples_before)
    job.restoration = Restoration.of(originals, before, after)
    if job.restoration is not None:
        yield job.progress(f"reconstructed {originals.described}: {job.restoration}")


def _sample_controlnet(job: Job, controlnet: Any) -> None:
    """Sample the ControlNet, and write its folder for diffusers if supported, with averaged weights if there are
    any."""
    if in_diffusers(controlnet):
        write_controlnet_folder(controlnet, job.output.controlnet, job.config.resolved_save_precision)
    conditions = sample_conditions(job.training, job.samples)
    write_control_samples(job.samples, conditions, job.training, job.output.samples)
    job.trained_prediction = controlled_prediction(job.probe, job.family, controlnet)
    job.controlnet_state = {name: each.detach().cpu().clone() for name, each in controlnet.state_dict().items()}
