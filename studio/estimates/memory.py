"""Predicted memory of trainings. The predictions for a set are stored in its folder, by the settings that they depend
on."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from settings.record import ConfigError
from settings.training import TrainingConfig, build_config
from studio.other_process import reason_in, running_task

NEEDS_FILE = "needs.json"
"""File in the folder of a set: lines on the predicted memory, by `key`."""
RESULT = "needs: "
Settings = Mapping[str, Any]


def key(config: TrainingConfig, images: int) -> str:
    """Return a digest of the settings that affect the memory of a training with `images` images, as 16 hex digits."""
    sections = (config.base, config.adapters, config.speed)
    facts = [section.model_dump(mode="json") for section in sections]
    at_once, accumulated = micro_batch(config, images), config.gradient_accumulation_steps
    others = [at_once, accumulated, config.preparation.resolutions, config.mixed_precision]
    return hashlib.sha256(json.dumps([facts, others]).encode()).hexdigest()[:16]


def kept_needs(folder: Path) -> dict[str, str]:
    """Return the stored predictions for the set in `folder`."""
    file = folder / NEEDS_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def keep_needs(folder: Path, found: Mapping[str, str]) -> None:
    """Add predictions to those of the set."""
    file = folder / NEEDS_FILE
    with FileLock(folder / f"{NEEDS_FILE}.lock"):
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(kept_needs(folder) | dict(found), indent=2), encoding="utf-8")
        os.replace(partial, file)


def needs_of(folder: Path, images: int, values: Settings) -> str:
    """Return a line on the memory of a training on the set in `folder`, which has `images` images. Without a stored
    prediction it is predicted now, which takes as long as loading the base model's text encoders.

    Raises ConfigError for wrong settings, and with the reason if the base model cannot be loaded.
    """
    wanted = key(build_config(values), images)
    if wanted not in kept_needs(folder):
        keep_needs(folder, by_process(values, images))
    return kept_needs(folder)[wanted]


def load_key(values: Settings) -> tuple[Any, ...]:
    """Return the settings that affect how the base model is loaded."""
    config = build_config(values)
    return config.base.model_dump(), config.adapter, config.mixed_precision, config.zero_terminal_snr


def by_process(values: Settings, images: int) -> dict[str, str]:
    """Predict in another process. Returns the line by its key. Raises ConfigError."""
    with tempfile.TemporaryDirectory() as folder:
        content = {"settings": dict(values), "images": images}
        with running_task("studio.estimates.predicting", content, Path(folder) / "request.json") as child:
            lines = list(child.lines())
    for line in lines:
        if line.startswith(RESULT):
            return dict(json.loads(line.removeprefix(RESULT)))
    raise ConfigError(reason_in(lines) or "the memory cannot be predicted")


def micro_batch(config: TrainingConfig, images: int) -> int:
    """Return the number of images per micro-batch, as planned by trainer.duration."""
    from trainer.duration import USUAL_BATCH  # deferred: imports torch

    return min(config.train_batch_size or USUAL_BATCH, images)
