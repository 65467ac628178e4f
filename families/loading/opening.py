"""Loads a base with diffusers from a folder, a hub id, or a single file, with the user's scheduler options."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DDIMScheduler
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from torch import nn

from families.errors import BaseModelError
from families.loading.sources import BaseModelSource, read_index

diffusers_logging.disable_progress_bar()

LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SingleFileComponentError)
DENOISERS = ("unet", "transformer")
"""Its name in diffusers' pipelines."""
PredictionChoice = Literal["auto", "epsilon", "v_prediction"]
"""auto: as in the checkpoint."""


@dataclass(frozen=True)
class LoadingOptions:
    """Options for loading a base.

    `base_config`: folder or hub id with the configuration and tokenizers of a single file. `prediction_type`: overrides
    the scheduler's. `zero_terminal_snr`: rescale the noise schedule. `denoiser`: False for a base that only encodes
    images: its denoiser is on the meta device, without weights. A single file is still read completely.
    """

    dtype: torch.dtype
    base_config: str | None = None
    prediction_type: PredictionChoice = "auto"
    zero_terminal_snr: bool = False
    denoiser: bool = True


def open_pipeline(pipeline_class: Any, source: BaseModelSource, options: LoadingOptions, **parts: Any) -> Any:
    """Load the base as a pipeline in `options.dtype`, on the CPU. Only safetensors are read.

    `parts`: passed to the pipeline in place of the base's own; None omits one. Raises BaseModelError when it cannot be
    loaded.
    """
    try:
        if source.kind == "file":
            pipeline = pipeline_class.from_single_file(
                source.location, config=options.base_config, torch_dtype=options.dtype, **parts
            )
        else:
            if not options.denoiser:
                parts |= _denoiser_without_weights(source, options.dtype)
            pipeline = pipeline_class.from_pretrained(
                source.location,
                dtype=options.dtype,
                use_safetensors=True,
                variant=half_precision_variant(source, DENOISERS),
                **source.pinned,
                **parts,
            )
    except LOADING_ERRORS as error:
        raise BaseModelError(_loading_failed(source, options, pipeline_class.__name__, error)) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _denoiser_without_weights(source: BaseModelSource, dtype: torch.dtype) -> dict[str, Any]:
    """The denoiser without weights, by its name in the pipeline. diffusers does not download or read the weights of a
    component that is passed to it."""
    index = read_index(source)
    part = next(name for name in DENOISERS if name in index)
    model = getattr(diffusers, index[part][1])
    config = model.load_config(source.location, subfolder=part, **source.pinned)
    with init_empty_weights():
        made = model.from_config(config)
    nn.Module.to(made, dtype)  # diffusers' own method warns about layers that stay in fp32, even without any
    return {part: made}


def half_precision_variant(source: BaseModelSource, parts: Sequence[str]) -> str | None:
    """Return fp16 if a folder contains the components only in that variant; None: the default files."""
    if source.kind != "folder":
        return None
    names = [path.name for part in parts for path in Path(source.location, part).glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def adapt_scheduler(pipeline: Any, options: LoadingOptions) -> None:
    """Set the scheduler options of a diffusion pipeline.

    Zero terminal SNR also requires samplers that start at the last timestep ("trailing", Lin et al. 2023, §3.3). A
    scheduler that does not support it is replaced by DDIM. Raises BaseModelError for it with EDM's noise.
    """
    scheduler_class, changes = type(pipeline.scheduler), dict[str, Any]()
    if options.prediction_type != "auto":
        changes["prediction_type"] = options.prediction_type
    if options.zero_terminal_snr and "sigma_data" in pipeline.scheduler.config:
        raise BaseModelError(
            f"zero_terminal_snr: the noise schedule of this base model is EDM's ({scheduler_class.__name__}), which "
            "has no betas to rescale; leave it out"
        )
    if options.zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if not takes_zero_terminal_snr(scheduler_class):
            scheduler_class = DDIMScheduler
            changes["clip_sample"] = False  # the default is for pixels; latents exceed ±1
    if changes:
        pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **changes)


def takes_zero_terminal_snr(scheduler_class: Any) -> bool:
    """Whether a scheduler can start from pure noise."""
    return "rescale_betas_zero_snr" in inspect.signature(scheduler_class.__init__).parameters


def refuse_diffusion_options(source: BaseModelSource, options: LoadingOptions) -> None:
    """Raises BaseModelError for options that do not apply to flow matching."""
    if options.prediction_type != "auto":
        raise BaseModelError(
            f"prediction_type: {source.name} is trained with flow matching and predicts neither ε nor v; leave it out"
        )
    if options.zero_terminal_snr:
        raise BaseModelError(
            f"zero_terminal_snr: {source.name} is trained with flow matching, which always ends in pure noise; leave "
            "it out"
        )


def remedy_for(source: BaseModelSource, options: LoadingOptions, pipeline: str) -> str:
    """Return the remedy for a base that cannot be loaded. `pipeline`: its class."""
    if source.kind == "file" and options.base_config is not None:
        return f"Check that base_config, {options.base_config}, is the configuration of this architecture."
    return {
        "hub": "Check the spelling, the network, and for gated models the HF_TOKEN in the environment.",
        "folder": f"Check that it is a complete {pipeline} in diffusers' layout, with safetensors weights.",
        "file": "Its configuration (not its weights) is loaded from the hub: check the network, or set base_config to "
        "a folder in diffusers' layout.",
    }[source.kind]


def _loading_failed(source: BaseModelSource, options: LoadingOptions, pipeline: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    remedy = remedy_for(source, options, pipeline)
    return f"{source.input_name}: cannot load {source.name!r}: {type(error).__name__}: {reason} {remedy}"
