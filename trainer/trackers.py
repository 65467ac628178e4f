"""TensorBoard and Weights & Biases, through accelerate's trackers: they follow the files that a run writes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from preprocess.settings import ConfigError
from trainer.config import TrainingConfig
from trainer.output_folder import OutputFolder
from trainer.progress import Progress

PROJECT = "lora-trainer"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def start_trackers(config: TrainingConfig, output: OutputFolder) -> list[GeneralTracker]:
    """One for each name in `trackers`. Raises ConfigError, before any training, where its package is missing."""
    for name in config.trackers:
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"trackers: {name} needs a package that is not installed: pip install {PACKAGES[name]}, or leave it out"
            )
    trackers: list[GeneralTracker] = []
    for name in config.trackers:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker("tensorboard", logging_dir=str(output.path)))
        else:
            trackers.append(WandBTracker(PROJECT, dir=str(output.path)))
        trackers[-1].start()
        trackers[-1].store_init_configuration(_flat(config.model_dump(mode="json")))
    return trackers


def followed(
    events: Iterator[Progress], trackers: Sequence[GeneralTracker], output: OutputFolder, first: int
) -> Iterator[Progress]:
    """Pass the events of a training on, and what it has written since to the trackers. `first`: the step before it."""
    if not trackers:
        yield from events
        return
    follower = Follower(trackers, output, first)
    try:
        for event in events:
            yield event
            follower.catch_up()
    finally:
        follower.catch_up()
        for tracker in trackers:
            tracker.finish()


class Follower:
    """What has been logged already is not logged again, also when a run goes on."""

    def __init__(self, trackers: Sequence[GeneralTracker], output: OutputFolder, first: int) -> None:
        self._trackers, self._output = trackers, output
        self._logged = {output.metrics: first, output.validation: first if first else -1}
        self._samples: set[Path] = set(output.samples_by_step.glob("step_*")) if first else set()

    def catch_up(self) -> None:
        """Log new lines of metrics.jsonl and validation.jsonl, and new samples."""
        rows = []
        for path, prefix in ((self._output.metrics, "train"), (self._output.validation, "validation")):
            for row in _rows(path, self._logged[path]):
                self._logged[path] = row["step"]
                rows.append((row["step"], _flat(row, prefix)))
        for step, values in sorted(rows, key=lambda pair: pair[0]):  # W&B refuses to go back
            for tracker in self._trackers:
                tracker.log(values, step=step)
        for folder in sorted(set(self._output.samples_by_step.glob("step_*")) - self._samples):
            self._samples.add(folder)
            images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]
            for tracker in self._trackers:
                _log_images(tracker, np.stack(images), int(folder.name.removeprefix("step_")))


def _log_images(tracker: GeneralTracker, images: np.ndarray, step: int) -> None:
    """`images`: (N, H, W, 3), 0 to 255."""
    if tracker.name == "tensorboard":
        tracker.log_images({"samples": images}, step=step, dataformats="NHWC")
    else:
        tracker.log_images({"samples": list(images)}, step=step)


def _rows(path: Path, after: int) -> list[dict[str, Any]]:
    """The rows whose step is later than `after`."""
    if not path.is_file():
        return []
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}"))
    return [row for row in rows if row["step"] > after]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested names joined by slashes; lists and None as text."""
    flat: dict[str, int | float | str | bool] = {}
    for name, value in values.items():
        key = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping):
            flat |= _flat(value, key)
        else:
            flat[key] = value if isinstance(value, int | float | str | bool) else json.dumps(value)
    return flat
