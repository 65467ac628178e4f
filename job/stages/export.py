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
"""Relative error of the trained change by rounding above which there is a warning."""
INDEX = "model_index.json"


def export(job: Job) -> Generator[Progress, None, None]:
    """Write model/ or model.safetensors: the base model with weights.safetensors merged, at the recommended scale."""
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
    yield job.progress(f"the model contains the trained change with a relative error of {lost:.2%}", 1.0)
    if lost > MOST_LOST:
        yield job.progress(
            f"save_model: rounding to the precision of {target.name} changes the trained difference by {lost:.1%}; "
            "set save_model_precision: fp32 to avoid it",
            1.0,
            warning=True,
        )


def require_model_base(config: TrainingConfig) -> None:
    """Check, before anything is loaded, that `save_model` can write this base model. Raises ConfigError, and
    BaseModelError if the base model does not exist."""
    if config.save_model == "none":
        return
    try:
        source = local_base(config.base_model, "save_model")
    except ArtifactError as error:
        raise ConfigError(str(error)) from error
    if source.kind == "file" and config.save_model == "diffusers":
        raise ConfigError(
            "save_model: diffusers needs a base model in a folder, and base_model is a file; set save_model: "
            "single_file"
        )
    if source.kind == "folder" and config.save_model == "single_file":
        raise ConfigError(
            "save_model: single_file needs a base model in a file, and base_model is a folder; set save_model: "
            "diffusers"
        )


def _write_scheduler(base: BaseModelSection, zero_terminal_snr: bool, family: ModelFamily, folder: Path) -> None:
    """Write the scheduler if the settings have changed its noise schedule or prediction type."""
    if base.prediction_type == "auto" and not zero_terminal_snr:
        return
    scheduler = family.pipeline().scheduler
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
