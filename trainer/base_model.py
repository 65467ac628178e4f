"""Loads the base model in each process of a run."""

import torch
from accelerate import Accelerator

from families.family import ModelFamily
from families.precision.half import overflow_in_half
from families.registry import load_base_model
from settings.record import ConfigError
from settings.sections.adapter import AdapterName
from settings.sections.base_model import BaseModelSection
from settings.sections.optimization import PrecisionName
from trainer.adapters.kinds import KINDS


def precision(adapter: AdapterName, mixed_precision: PrecisionName) -> torch.dtype:
    """Return the dtype of the base's weights: fp32 where they are trained."""
    return torch.float32 if adapter == "full" else compute_precision(mixed_precision)


def compute_precision(mixed_precision: PrecisionName) -> torch.dtype:
    """Return the dtype of the base's forward passes."""
    automatic = "bf16" if has_bf16() else "no"
    wanted = automatic if mixed_precision == "auto" else mixed_precision
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(wanted, torch.float32)


def has_bf16() -> bool:
    """Whether there is a GPU with hardware support for bf16, which NVIDIA's have from the 30xx and A100 on."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def allow_tf32(allowed: bool) -> None:
    """Use TF32 for products of fp32 matrices and convolutions, on GPUs that support it: rounded to 10 bits, and several
    times as fast. No effect on other devices."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def autocast_precision(adapter: AdapterName, mixed_precision: PrecisionName) -> str:
    """Return the mode of accelerate's autocast: "no" if the adapter computes in the base's precision without it, and
    for full fine-tuning, where the models run autocast themselves (`families.precision.autocast`).

    Autocast would run every norm in fp32 and cast whole activations for that.
    """
    by_itself = adapter in ("none", "full") or (adapter in KINDS and KINDS[adapter].in_base_precision)
    if by_itself:
        return "no"
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(precision(adapter, mixed_precision), "no")


def require_precision(family: ModelFamily, dtype: torch.dtype) -> None:
    """Raises ConfigError for fp16 if the base's values overflow in it."""
    if dtype == torch.float16 and (why := overflow_in_half(family)) is not None:
        raise ConfigError(f"mixed_precision: fp16: {why}; set bf16, or no")


def load_base(
    base: BaseModelSection,
    dtype: torch.dtype,
    accelerator: Accelerator,
    zero_terminal_snr: bool,
    denoiser: bool = True,
) -> ModelFamily:
    """Load the base in `dtype`. Local rank 0 loads first, so that nothing is downloaded twice. `denoiser`: as in
    `load_base_model`.

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
            denoiser=denoiser,
        )
