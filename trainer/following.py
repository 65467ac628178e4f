"""The part of a run that every process but the first takes: the same steps, and nothing written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocess.dataset import PreparedDataset
from preprocess.settings import ConfigError
from trainer.base_model import load, precision
from trainer.cache import cache_examples
from trainer.config import TrainingConfig
from trainer.leading import lead
from trainer.processes import Processes, start
from trainer.resolution import resolve
from trainer.train_state import restore
from trainer.training import build_training


def follow(config: TrainingConfig, state: dict[str, Any] | None = None) -> Iterator[int]:
    """Train what the first process of `trainer.run` prepares. Yields the number of each step.

    `state`: of the checkpoint to go on from. Raises what `run` raises, and ConfigError where this machine does not see
    the first one's files.
    """
    accelerator = start(precision(config))
    processes = Processes(accelerator)
    family = load(config, accelerator)
    config = resolve(config, family)
    folder, digest = processes.of_first(("", ""))  # waits until the images are prepared
    dataset = _read(Path(folder), digest)
    family.to(accelerator.device)
    examples = list(cache_examples(dataset, family))
    family.vae.to("cpu")
    training = build_training(config, family, dataset, examples, accelerator)
    if state is not None:
        restore(training, state)
    for step in lead(training.trainer, processes):
        yield step.number
    accelerator.end_training()


def _read(folder: Path, digest: str) -> PreparedDataset:
    if not folder.is_dir() or (dataset := PreparedDataset.read(folder)).digest() != digest:
        raise ConfigError(
            f"output: {folder} is not what the first process has there. All machines need to see one folder: give an "
            "--output on a disk that they share"
        )
    return dataset
