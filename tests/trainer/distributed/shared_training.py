"""Runs one of several processes that train a tiny model together.

`torchrun … -m tests.trainer.distributed.shared_training BASE RESULT`.

The main process writes losses, gradient norms and the sum of the trained weights at every step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from families.registry import load_base_model
from preprocess.dataset import PreparedDataset
from settings.training import TrainingConfig
from tests.families.golden_curves import cached_examples, curve_config
from trainer.building import build_training
from trainer.distributed.processes import Processes, start
from trainer.resolution import resolve

WHOLE_BATCH = 4
SETTINGS: dict[str, Any] = {
    "max_train_steps": 4,
    "caption_dropout": 0.4,
    "shuffle_tags": True,
    "conditioning_noise": 0.1,
    "input_perturbation": 0.1,
    "noise_offset": 0.05,
    "min_timestep": 0.1,
}
"""Common settings, with the options that draw random values for each image."""


KINDS: dict[str, dict[str, Any]] = {
    "lora": {
        "prior_matching_weight": 0.5,
        "prior_matching_interval": 1,
        "prior_prompts": ("a red star", "two blue circles", "a green square"),
    },
    "full": {
        "adapter": "full",
        "rank": 16,
        "alpha": None,
        "learning_rate": 1e-4,
        "train_text_encoder": True,
        "ema_decay": 0.9,
        "max_train_steps": 3,
        "gradient_accumulation_steps": 1,
        "lr_warmup_steps": 0,
    },
}
"""Kinds of training, with their own settings."""


def shared_config(base: str, processes: int, **changes: Any) -> TrainingConfig:
    """Returns settings with the same total batch size for any number of processes."""
    return curve_config(base, train_batch_size=WHOLE_BATCH // processes, **SETTINGS | changes)


def shared_curves(base: str, accelerator: Accelerator) -> dict[str, list[dict[str, float]]]:
    """Returns the curve of each of KINDS."""
    return {kind: shared_curve(base, accelerator, **changes) for kind, changes in KINDS.items()}


def shared_curve(base: str, accelerator: Accelerator, **changes: Any) -> list[dict[str, float]]:
    """Returns the losses, the gradient norms and the sum of the absolute trained weights of every step."""
    family = load_base_model(base, torch.float32)
    config = resolve(shared_config(base, Processes(accelerator).share.count, **changes), family)
    training = build_training(config, family, PreparedDataset(Path(), (), (), ()), cached_examples(), accelerator)
    parameters = [each for trainable in training.trainer.trainables for each in trainable.parameters]
    rows = []
    for step in training.trainer.steps():
        moved = sum(float(parameter.detach().abs().sum()) for parameter in parameters)
        rows.append({**step.losses, **{f"norm of {key}": norm for key, norm in step.gradient_norms.items()},
                     "sum of weights": moved})  # fmt: skip
    training.remove()
    return rows


if __name__ == "__main__":
    joined = start()
    curves = shared_curves(sys.argv[1], joined)
    if Processes(joined).is_main:
        Path(sys.argv[2]).write_text(json.dumps(curves), encoding="utf-8")
