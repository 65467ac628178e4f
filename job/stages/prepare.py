"""Prepare stage: generates class images if requested, and prepares the uploads."""

from collections.abc import Generator
from pathlib import Path

from families.family import frozen_reader
from job.class_images import ClassImageSettings, with_class_images
from job.progress import Progress, relay_preparation
from job.stage import Job
from job.stages.memory import memory_plan
from preprocess.dataset import PreparedDataset, are_prepared, is_prepared
from preprocess.gallery.page import write_gallery
from preprocess.prepare import preparing
from preprocess.reopen import reopen
from preprocess.uploads.identity import identify, write_identities
from settings.preparation import DataConfig
from trainer.adapters.requirements import b_lora_warning, where_it_opens
from trainer.checkpoints.same_run import require_same_images
from trainer.data.feature_shards import are_features
from trainer.data.feature_sources import features_for
from trainer.distributed.preparation_workers import workers_of
from trainer.duration import USUAL_BATCH
from trainer.resolution import base_requirements
from trainer.validation.sample_prompts import with_prompt_of_captions


def prepare(job: Job) -> Generator[Progress, None, None]:
    """Set `dataset`, and send its folder to the other ranks."""
    yield job.progress("preparing the images")
    if job.state is None:
        write_identities(identify(job.sources, job.output.path), job.output.sources)
    else:
        done = is_prepared(job.output.dataset)
        job.sources = [job.output.dataset if done else job.state["dataset"]]
    settings = yield from _with_class_images(job)
    job.dataset = yield from _dataset(job, settings)
    job.config = with_prompt_of_captions(job.config, job.dataset, new=job.state is None)
    if job.state is None:
        write_gallery(job.dataset, job.output.dataset)
    else:
        require_same_images(job.state, job.dataset.digest())
    digest = "" if job.processes.is_single else job.dataset.digest()
    job.processes.broadcast((str(job.dataset.folder.resolve()), digest))
    yield from _findings(job)


def _with_class_images(job: Job) -> Generator[Progress, None, DataConfig]:
    """Return the preparation settings with class images as preservation set. The base has no adapters yet."""
    config, settings = job.config, job.config.preparation
    if config.num_class_images == 0 or job.state is not None:
        return settings
    if are_prepared(job.sources) or are_features(job.sources):
        late = (
            f"num_class_images has no effect: {job.sources[0]} is already prepared. Prepare the images again to use it"
        )
        yield job.progress(late, warning=True)
        return settings
    drawn = ClassImageSettings.of(config.class_images, config.validation, settings, job.side)
    if (reader := frozen_reader(job.family)) is not None:
        reader.keep_prompts(job.output.prompts)
        reader.read_ahead([*drawn.prompts, ""])
    yield from memory_plan(job, USUAL_BATCH)
    folder = job.output.class_images
    drawing = with_class_images(drawn, settings, job.family, job.storage, job.device, folder, job.span[0])
    return (yield from drawing)


def _dataset(job: Job, settings: DataConfig) -> Generator[Progress, None, PreparedDataset]:
    """Prepare the sources with all processes, or open a prepared dataset."""
    base = base_requirements(job.family, settings, job.config.num_tokens)
    workers = workers_of(job.processes)
    if are_features(job.sources):
        dataset: PreparedDataset = features_for(Path(job.sources[0]), job.family, settings)
    elif are_prepared(job.sources):
        dataset = reopen(Path(job.sources[0]), settings, base)
    else:
        stages = preparing(job.sources, settings, job.output.dataset, base, workers)
        dataset = yield from relay_preparation(stages, *job.span)
    workers.release()
    return dataset


def _findings(job: Job) -> Generator[Progress, None, None]:
    """Yield the warnings about the user's files, and the rejected files."""
    dataset = job.dataset
    lines = [*dataset.combined_warnings, *(f"not used: {item.reason}" for item in dataset.rejected)]
    yield job.progress(f"{len(dataset.largest)} images, {len(dataset.rejected)} files not used", 1.0)
    if (warning := where_it_opens(job.config.adapters, job.family)) is not None:
        lines.append(warning)
    if (warning := b_lora_warning(job.config.adapters, job.family)) is not None:
        lines.append(warning)
    for line in lines:
        yield job.progress(line, 1.0, warning=True)
