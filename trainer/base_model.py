"""The base model as a run loads it, in each of its processes."""

import torch
from accelerate import Accelerator

from families.family import ModelFamily
from families.registry import load_base_model
from trainer.config import TrainingConfig


def precision(config: TrainingConfig) -> str:
    """Of the forward passes, as accelerate names it."""
    if config.mixed_precision == "auto":
        return "bf16" if torch.cuda.is_available() and config.adapter != "full" else "no"
    return config.mixed_precision


def load(config: TrainingConfig, accelerator: Accelerator) -> ModelFamily:
    """Load it; a machine's first process goes ahead, so that nothing is downloaded twice. Raises BaseModelError."""
    with accelerator.local_main_process_first():
        return load_base_model(
            config.base_model,
            torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32,
            base_config=config.base_config,
            prediction_type=config.prediction_type,
            zero_terminal_snr=config.zero_terminal_snr,
        )
