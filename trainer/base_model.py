"""The base model as a run loads it, in each of its processes."""

import torch
from accelerate import Accelerator

from families.family import ModelFamily
from families.registry import load_base_model
from settings.training import TrainingConfig
from trainer.adapters.kinds import IN_BASE_PRECISION


def precision(config: TrainingConfig) -> torch.dtype:
    """Of the base and of the passes through it."""
    automatic = "bf16" if torch.cuda.is_available() and config.adapter != "full" else "no"
    wanted = automatic if config.mixed_precision == "auto" else config.mixed_precision
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def autocast_precision(config: TrainingConfig) -> str:
    """What accelerate's autocast shall do: nothing where the adapter computes in the base's precision by itself.

    Autocast would run every norm in fp32, and cast whole activations for it.
    """
    by_itself = config.adapter in (*IN_BASE_PRECISION, "none")
    return "no" if by_itself or precision(config) == torch.float32 else "bf16"


def load(config: TrainingConfig, accelerator: Accelerator) -> ModelFamily:
    """Load it; a machine's first process goes ahead, so that nothing is downloaded twice. Raises BaseModelError."""
    with accelerator.local_main_process_first():
        return load_base_model(
            config.base_model,
            precision(config),
            base_config=config.base_config,
            prediction_type=config.prediction_type,
            zero_terminal_snr=config.zero_terminal_snr,
        )
