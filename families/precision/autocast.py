"""Mixed precision: models whose weights stay in fp32 compute matrix products in bf16."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch import nn

from families.family import ModelFamily


def compute_in(family: ModelFamily, dtype: torch.dtype) -> None:
    """Run denoiser and text encoders under autocast to `dtype`; they return fp32.

    Weights, gradients and norms stay in fp32 (Micikevicius et al. 2018, §3.1). The casts of weights last for one pass:
    weights may be exchanged between two passes. Does nothing for fp32.
    """
    if dtype == torch.float32:
        return
    for model in (family.denoiser, *family.text_encoders):
        model.forward = convert_outputs_to_fp32(_autocast(model, model.forward, dtype))
        model.computes_in = dtype


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of a model's computation: that of `compute_in`, otherwise that of its weights. Quantised weights are
    integers."""
    floats = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    found: torch.dtype = getattr(model, "computes_in", None) or next(floats)
    return found


def _autocast(model: nn.Module, run: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def forward(*inputs: Any, **options: Any) -> Any:
        with torch.autocast(next(model.parameters()).device.type, dtype=dtype):
            return run(*inputs, **options)

    return forward
