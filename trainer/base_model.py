"""Loads the base model in each process of a run."""

import torch
from accelerate import Accelerator

from families.family import ModelFamily
from families.registry import load_base_model
from settings.sections.adapter import AdapterName
from settings.sections.base_model import BaseModelSection
from settings.sections.optimization import PrecisionName
from trainer.adapters.kinds import KINDS


def precision(adapter: AdapterName, mixed_precision: PrecisionName) -> torch.dtype:
    """Return the dtype of the base and of its forward passes."""
    automatic = "bf16" if has_bf16() and adapter != "full" else "no"
    wanted = automatic if mixed_precision == "auto" else mixed_precision
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def has_bf16() -> bool:
    """Whether there is a GPU that computes in bf16 itself: Nvidia's emulate it before the 30xx and A100."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def allow_tf32(allowed: bool) -> None:
    """Let products of fp32 matrices and convolutions be rounded to 10 bits, on cards that have TF32: several times as
    fast. Elsewhere this changes nothing."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def autocast_precision(adapter: AdapterName, mixed_precision: PrecisionName) -> str:
    """Return the mode of accelerate's autocast: "no" where the adapter computes in the base's precision without it.

    Autocast would run every norm in fp32 and cast whole activations for that.
    """
    by_itself = adapter == "none" or (adapter in KINDS and KINDS[adapter].in_base_precision)
    return "no" if by_itself or precision(adapter, mixed_precision) == torch.float32 else "bf16"


def load_base(
    base: BaseModelSection, dtype: torch.dtype, accelerator: Accelerator, zero_terminal_snr: bool
) -> ModelFamily:
    """Load the base in `dtype`. Local rank 0 loads first, so that nothing is downloaded twice.

    Raises BaseModelError.
    """
    with accelerator.local_main_process_first():
        return load_base_model(
            base.base_model,
            dtype,
            base_config=base.base_config,
            prediction_type=base.prediction_type,
            zero_terminal_snr=zero_terminal_snr,
            vae=base.vae,
            base_revision=base.base_revision,
        )
