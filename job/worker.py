"""The part of a run that every process but the first takes: the same steps, and nothing written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.output_folder import OutputFolder
from preprocess.dataset import PreparedDataset
from settings.record import ConfigError
from settings.training import TrainingConfig
from trainer.base_model import autocast_precision, load, precision
from trainer.checkpoints.training_state import restore
from trainer.data.latent_store import encode_dataset, latent_place
from trainer.distributed.preparation_workers import assist
from trainer.distributed.processes import Processes, start
from trainer.distributed.sharded_base import share_out
from trainer.distributed.synchronized_steps import lead
from trainer.execution.attention import require_attention
from trainer.resolution import resolve
from trainer.training import build_training


def follow(config: TrainingConfig, output: OutputFolder, state: dict[str, Any] | None = None) -> Iterator[int]:
    """Help the first process of `job.run` to prepare, and train with it. Yields the number of each step.

    `state`: of the checkpoint to go on from. Raises what `run` raises, and ConfigError where this machine does not see
    the first one's files.
    """
    accelerator = start(autocast_precision(config.adapter, config.mixed_precision))
    dtype = precision(config.adapter, config.mixed_precision)
    processes = Processes(accelerator)
    family = load(config.base, dtype, accelerator, config.zero_terminal_snr)
    config = resolve(config, family)
    require_attention(config.attention, accelerator.device, dtype, family.denoiser)
    assist(processes)
    folder, digest = processes.of_first(("", ""))
    dataset = _read(Path(folder), digest)
    base = share_out(config.shard_base, family, processes)
    family.to(accelerator.device)
    place = latent_place(config.latent_cache, dataset, family, processes)
    examples = encode_dataset(dataset, family, place, output.latents, processes)
    with base.first_alone():  # which draws the samples of before
        family.vae.to("cpu")
    training = build_training(config, family, dataset, examples, accelerator)
    if state is not None:
        restore(training, state)
    with base.first_alone():  # up to the end, but for the steps
        for step in lead(training.trainer, processes, base):
            yield step.number
    accelerator.end_training()


def _read(folder: Path, digest: str) -> PreparedDataset:
    if not folder.is_dir() or (dataset := PreparedDataset.read(folder)).digest() != digest:
        raise ConfigError(
            f"output: {folder} is not what the first process has there. All machines need to see one folder: give an "
            "--output on a disk that they share"
        )
    return dataset
