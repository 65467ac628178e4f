"""The order of everything, once: load, prepare, train, save, sample, verify, evaluate, report."""

import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from job.class_images import ClassImageSettings, with_class_images
from job.evaluating import evaluating, evaluation_encoders
from job.output_folder import OutputFolder
from job.phases import PhaseClock
from job.progress import Progress, relay_preparation
from job.publishing.hub import publish, require_publishable
from job.publishing.model_card import CardFacts, told_settings
from job.report.page import write_page
from job.report.summary import write_report
from job.samples import SampleSettings, write_samples, write_samples_before
from job.steps import train
from job.trackers import followed, require_trackers, start_trackers
from job.verification.verify import Probe, verify
from preprocess.dataset import PreparedDataset, are_prepared, is_prepared
from preprocess.gallery.page import write_gallery
from preprocess.prepare import BaseRequirements, preparing
from preprocess.reopen import reopen
from preprocess.workers.workers import Crew
from sampler.sampler import Sampler
from settings.preparation import DataConfig
from settings.training import TrainingConfig
from trainer.adapters.adapter import where_it_opens
from trainer.base_model import autocast_precision, load, precision
from trainer.checkpoints.training_state import restore
from trainer.data.latent_cache import count_views
from trainer.data.latent_store import encode_dataset, latent_place
from trainer.distributed.preparation_workers import crew_of
from trainer.distributed.processes import Processes, start
from trainer.distributed.sharded_base import share_out
from trainer.duration import describe
from trainer.execution.attention import require_attention
from trainer.resolution import base_requirements, resolve
from trainer.trainables.registry import require_optimizers
from trainer.training import build_training


def run(
    config: TrainingConfig,
    sources: Sequence[str | Path],
    output: OutputFolder,
    state: dict[str, Any] | None = None,
) -> Generator[Progress, None, None]:
    """Train on `sources` (archives, folders, URLs, or one prepared dataset) and fill `output`.

    `state`: of the checkpoint to go on from; the images are then those that `output` has prepared already. Closing the
    iterator saves what was trained so far, and a checkpoint to go on from. Of several processes this is the first one's
    part; the others' is `job.worker`.

    Raises DatasetError, BaseModelError and ConfigError before any training; TrainingDiverged, ArtifactError and
    VerificationFailed and PublishingFailed after it, with the files kept.
    """
    phases = PhaseClock()
    phases.begin("load")
    require_optimizers(config.optimization)
    require_publishable(config.publishing)
    require_trackers(config.output)
    dtype = precision(config.adapter, config.mixed_precision)
    accelerator = start(autocast_precision(config.adapter, config.mixed_precision))
    require_attention(config.attention, accelerator.device, dtype)
    processes = Processes(accelerator)
    yield Progress(f"loading the base model {config.base_model}", 0.0)
    family = load(config.base, dtype, accelerator, config.zero_terminal_snr)
    config = resolve(config, family)
    require_attention(config.attention, accelerator.device, dtype, family.denoiser)
    output.write_config(config)
    encoders = yield from evaluation_encoders(
        config.validation,
        config.base_model,
        config.checkpointing_steps is not None,
        accelerator.device,
        output.evaluation / "embeddings",
    )
    side = config.resolution or family.native_resolution

    phases.begin("prepare")
    yield Progress("preparing the images", 0.05)
    if state is not None:
        sources = [output.dataset if is_prepared(output.dataset) else state["dataset"]]
    data = config.preparation
    if config.num_class_images > 0 and state is None:  # before anything is on the base
        data = yield from with_class_images(
            ClassImageSettings.of(config.class_images, config.validation, data, side),
            data,
            sources,
            family,
            accelerator.device,
            output.class_images,
        )
    crew = crew_of(processes)
    dataset = yield from _dataset(data, sources, output, base_requirements(family, data, config.num_tokens), crew)
    crew.dismiss()
    processes.of_first((str(dataset.folder.resolve()), "" if processes.alone else dataset.digest()))
    yield from _tell(dataset)

    if (warning := where_it_opens(config.adapters, family)) is not None:
        yield Progress(warning, 0.07, warning=True)
    phases.begin("cache")
    base = share_out(config.shard_base, family, processes)
    family.to(accelerator.device)
    samples = SampleSettings.of(config.validation, config.preparation, side)
    probe = Probe.make(family, samples.prompt)
    place = latent_place(config.latent_cache, dataset, family, processes)
    yield Progress(f"caching the latents of {count_views(dataset.examples)} pictures in {place}", 0.08)
    examples = encode_dataset(dataset, family, place, output.latents, processes)
    phases.begin("sample")
    with base.first_alone():
        base_prediction = probe.predict(family, {})
        write_samples_before(samples, Sampler(family), output.samples_before)
    if config.sample_steps is None:
        family.vae.to("cpu")  # has nothing to do until the last samples
    phases.begin("train")
    training = build_training(config, family, dataset, examples, accelerator)
    config = training.config
    output.write_config(config)

    if state is not None:
        restore(training, state)
        yield Progress(f"going on after step {training.trainer.step}", 0.1)
    if training.held_out is not None:
        yield Progress(f"validating on {training.held_out.description}", 0.1)
    plan = describe(config.duration, len(dataset.examples), processes.share.count)
    yield Progress(f"training on {accelerator.device}: {plan}", 0.1)
    trackers = start_trackers(config.trackers, config.model_dump(mode="json"), output, training.trainer.step)
    with base.first_alone():  # but for the steps
        yield from followed(train(training, output, base), trackers, output, training.trainer.step)
        training.write(output.weights)
        shutil.rmtree(output.latents, ignore_errors=True)

        family.to(accelerator.device)
        phases.begin("sample")
        yield Progress(f"sampling {config.num_validation_images} images", 0.92)
        with training.averaged():
            artifact = training.artifact()
            artifact.write_embeddings(output.embeddings)
            write_samples(samples, Sampler(family), output.samples, training.triggers)
            trained_prediction = probe.predict(family, training.triggers)

        phases.begin("verify")
        yield Progress("verifying the artifact", 0.93)
        training.remove()
        verification = verify(output.weights, family, probe, base_prediction, trained_prediction, artifact)
        yield Progress(
            f"verified: the file does what the training did (relative difference {verification.difference:.1e})", 0.94
        )
        evaluation = None
        if encoders is not None:  # chooses among the checkpoints, so it comes after the file is known to be right
            phases.begin("evaluate")
            evaluation = yield from evaluating(
                config.validation,
                config.preparation,
                config.base_model,
                samples,
                family,
                dataset,
                output,
                encoders,
                training.trainer.step,
            )
    phases.end()
    triggers = [concept.trigger_word for concept in config.all_concepts]
    write_report(output, config.model_dump(mode="json"), triggers, dataset, verification, phases, evaluation)
    yield Progress(f"the report: {write_page(output, dataset)}", 1.0, phases=phases.seconds)
    if not processes.alone:
        accelerator.end_training()
    if config.push_to_hub is not None:
        facts = CardFacts(config.base_model, list(training.triggers), samples.prompt, told_settings(config))
        yield Progress(f"published: {publish(config.publishing, output, facts)}", 1.0)


def _dataset(
    config: DataConfig, sources: Sequence[str | Path], output: OutputFolder, base: BaseRequirements, crew: Crew
) -> Generator[Progress, None, PreparedDataset]:
    """Prepare the sources, or open the one that is prepared already. The gallery shows what will be trained."""
    if are_prepared(sources):
        dataset = reopen(Path(sources[0]), config, base)
    else:
        stages = preparing(sources, config, output.dataset, base, crew)
        dataset = yield from relay_preparation(stages, 0.05, 0.07)
    write_gallery(dataset, output.dataset)
    return dataset


def _tell(dataset: PreparedDataset) -> Iterator[Progress]:
    """What became of the user's files: warnings and refusals."""
    lines = [*dataset.all_warnings, *(f"not used: {item.reason}" for item in dataset.rejected)]
    yield Progress(f"{len(dataset.examples)} images, {len(dataset.rejected)} files not used", 0.07)
    for line in lines:
        yield Progress(line, 0.07, warning=True)
