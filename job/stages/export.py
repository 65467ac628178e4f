"""Export stage: the whole model, after full fine-tuning."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path

from artifact.artifact import Artifact
from artifact.errors import ArtifactError
from artifact.merging.onto import local_base, write_onto
from families.family import ModelFamily
from job.progress import Progress
from job.stage import Job
from sampler.weights import recommended
from settings.record import ConfigError
from settings.sections.base_model import BaseModelSection
from settings.training import TrainingConfig

MOST_LOST = 0.01
"""Relative size of what rounding takes from the training, from which it is worth a warning."""
INDEX = "model_index.json"


def export(job: Job) -> Generator[Progress, None, None]:
    """Write model/ or model.safetensors: the base with weights.safetensors in it, at its recommended scale."""
    config, output = job.config, job.output
    if config.save_model == "none":
        return
    target = output.model_folder if config.save_model == "diffusers" else output.model_file
    yield job.progress(f"writing the whole model: {target}")
    shutil.rmtree(output.model_folder, ignore_errors=True)  # of a run that was resumed
    output.model_file.unlink(missing_ok=True)
    artifact = Artifact.read(output.weights)
    precision = None if config.save_model_precision == "base" else config.save_model_precision
    source = local_base(config.base_model, "save_model")
    outcome = write_onto(
        {output.weights.name: artifact}, [recommended(artifact)], source, job.family, target, precision
    )
    if config.save_model == "diffusers":
        _write_scheduler(config.base, config.zero_terminal_snr, job.family, target)
    for note in outcome.left_out:
        yield job.progress(note)
    lost = outcome.error
    yield job.progress(f"the model keeps the training with a relative error of {lost:.2%}", 1.0)
    if lost > MOST_LOST:
        yield job.progress(
            f"save_model: rounding to the precision of {target.name} takes {lost:.1%} of what was trained; "
            "save_model_precision: fp32 keeps it",
            1.0,
            warning=True,
        )


def require_model_base(config: TrainingConfig) -> None:
    """Check, before anything is loaded, that the base is one that `save_model` can write. Raises ConfigError, and
    BaseModelError where there is no such base."""
    if config.save_model == "none":
        return
    try:
        source = local_base(config.base_model, "save_model")
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    if source.kind == "file" and config.save_model == "diffusers":
        raise ConfigError("save_model: diffusers writes a folder from a folder; the base is a file: set single_file")
    if source.kind == "folder" and config.save_model == "single_file":
        raise ConfigError("save_model: single_file writes a file from a file; the base is a folder: set diffusers")


def _write_scheduler(base: BaseModelSection, zero_terminal_snr: bool, family: ModelFamily, folder: Path) -> None:
    """Write the scheduler where the settings have changed what the base's says of its noise."""
    if base.prediction_type == "auto" and not zero_terminal_snr:
        return
    scheduler = family.pipeline().scheduler
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
