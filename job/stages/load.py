"""Load stage: checks requirements, loads the base, and resolves the settings that depend on it."""

from collections.abc import Generator
from pathlib import Path

import torch

from evaluation.checkpoints import evaluation_prompts
from families.controls.control import ControlForm
from families.family import ModelFamily, limited_licence, restoring
from families.loading.fingerprint import fingerprint
from families.loading.own_vae import find_vae
from families.precision.autocast import compute_in
from job.evaluating import evaluation_encoders
from job.progress import Progress
from job.publishing.hub import require_publishable
from job.stage import Job
from job.stages.export import require_model_base
from job.trackers import require_trackers
from preprocess.dataset import are_prepared
from preprocess.faces.people import face_look
from settings.record import ConfigError
from settings.training import TrainingConfig
from trainer.base_model import (
    allow_tf32,
    autocast_precision,
    compute_precision,
    load_base,
    precision,
    require_precision,
)
from trainer.checkpoints.same_run import require_same_base, require_same_processes
from trainer.distributed.processes import start
from trainer.execution.attention import require_attention
from trainer.initial_weights import InitialWeights, read_initial_weights
from trainer.noise.conditions import read_pictures
from trainer.open_settings import token_notes
from trainer.resolution import resolve
from trainer.trainables.initial_controlnet import InitialControlNet, read_initial_controlnet
from trainer.trainables.registry import require_optimizers
from trainer.training_adapter import distillation_notes, read_training_adapter
from trainer.trigger_notes import trigger_notes
from trainer.validation.sample_prompts import prompt_notes, sample_prompts

NOT_EVALUATED = (
    "not evaluated, the last step will be returned: shard_base with adapter: full has no whole weights to which "
    "checkpoints can be applied. Set validation_steps to return the step with the lowest loss on held-out images"
)


def load(job: Job) -> Generator[Progress, None, None]:
    """Set `accelerator`, `dtype`, `family`, `encoders` and the resolved configuration."""
    config = job.config
    for note in job.notes:
        yield job.progress(note, warning=True)
    require_optimizers(config.optimization)
    require_publishable(config.publishing)
    require_model_base(config)
    require_trackers(config.output)
    require_files(config, new=job.state is None)
    if config.control == "faces" and not are_prepared(job.sources):
        face_look(config.preparation)
    start_device(job)
    require_attention(config.attention, job.device, compute_precision(config.mixed_precision))
    yield job.progress(f"loading the base model {config.base_model}")
    load_family(job)
    if job.state is None:
        job.output.write_config(job.config)
    else:
        require_same_processes(job.state, job.processes.share.count)
        if not next(
            job.family.denoiser.parameters()
        ).is_meta:  # otherwise after its weights are loaded, before the first step
            require_same_base(job.state, fingerprint(job.family.denoiser))
    if (licence := limited_licence(job.family)) is not None:
        yield job.progress(licence, warning=True)
    notes = (*distillation_notes(job.training_adapter, job.family), *trigger_notes(config.preparation, job.family))
    for note in (*notes, *token_notes(config), *prompt_notes(config)):
        yield job.progress(note, warning=True)
    if config.is_controlnet or restoring(job.family) is not None:
        job.encoders = None
        return
    if config.shard_base and config.trains_base:
        job.encoders = None
        if config.evaluates_checkpoints and config.evaluate == "auto":
            yield job.progress(NOT_EVALUATED, warning=True)
        return
    wanted = job.config.evaluates_checkpoints or job.config.stop_when_settled
    if wanted:
        evaluation_prompts(config.validation, config.preparation, config.base_model)  # raises ConfigError
    embeddings = job.output.evaluation / "embeddings"
    job.encoders = yield from evaluation_encoders(
        config.validation, config.base_model, wanted, job.device, embeddings, job.span[1]
    )


def require_files(config: TrainingConfig, *, new: bool) -> None:
    """Check the files of settings that are read when the base model is loaded, which may be downloaded first. `new`:
    whether the run is not resumed. Raises ConfigError or BaseModelError."""
    for name in ("init_weights", "training_adapter") if new else ("training_adapter",):
        path = getattr(config, name)
        if path is not None and not path.exists():
            raise ConfigError(f"{name}: {path} does not exist")
    if config.vae is not None:
        find_vae(config.vae)
    sample_prompts(config.validation, config.preparation)


def start_device(job: Job) -> None:
    """Select the device, and join the process group of a distributed training."""
    config = job.config
    allow_tf32(config.allow_tf32)
    job.dtype = precision(config.adapter, config.mixed_precision)
    autocast = autocast_precision(config.adapter, config.mixed_precision)
    if autocast == "fp16" and not torch.cuda.is_available():
        raise ConfigError(
            f"mixed_precision: fp16 with adapter: {config.adapter} needs a GPU; set mixed_precision: no, or choose the "
            "adapter lora or rslora"
        )
    job.accelerator = start(autocast)


def load_family(job: Job) -> None:
    """Load the base, and resolve the configuration for it."""
    config = job.config
    job.family = load_base(config.base, job.dtype, job.accelerator, config.zero_terminal_snr)
    require_precision(job.family, job.dtype)
    computed = compute_precision(config.mixed_precision)
    if config.trains_base:
        compute_in(job.family, computed)
    job.config = resolve(config, job.family)
    with job.accelerator.local_main_process_first():
        read_pictures(config.image_embedding_share, config.base_model, job.family)
    if job.config.init_weights is not None and job.state is None:
        job.initial = _initial(job.config, job.config.init_weights, job.family)
    if job.config.training_adapter is not None:
        job.training_adapter = read_training_adapter(job.config.training_adapter, job.family)
    require_attention(config.attention, job.device, computed, job.family.denoiser)


def _initial(config: TrainingConfig, path: Path, family: ModelFamily) -> InitialWeights | InitialControlNet:
    if config.is_controlnet:
        form = ControlForm.of(config.control, config.controlnet_blocks, config.controlnet_bottleneck)
        return read_initial_controlnet(path, family, form)
    return read_initial_weights(path, list(config.class_words), config.num_tokens, family)
