"""Locates the other parts of Stable Cascade: the image encoder, and Stages B and A, which decode.

On the hub they are in another repository than Stage C. A folder may contain some or all of them beside Stage C:

    prior/ text_encoder/ tokenizer/ scheduler/    as StableCascadePriorPipeline saves them
    effnet_encoder.safetensors, or effnet_encoder/ in diffusers' layout
    decoder/ vqgan/
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from families.cascade.efficient_net import EfficientNetEncoder
from families.cascade.stage import CascadeUNet
from families.errors import BaseModelError
from families.loading.allowed import require_allowed
from families.loading.opening import LOADING_ERRORS
from families.loading.pipeline_parts import PipelineParts
from families.loading.sources import BaseModelSource
from fetching.errors import DownloadError
from fetching.hub_connection import require_hub

OTHER_PARTS = "stabilityai/stable-cascade"
"""The hub model with the encoder and Stages B and A of every Stage C."""
ENCODER = "effnet_encoder"
ENCODER_FILE = f"{ENCODER}.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class DecoderParts:
    """The other parts. `encoder`: images → its latents. `decoder`: Stage B. `vqgan`: Stage A."""

    encoder: EfficientNetEncoder
    decoder: CascadeUNet
    vqgan: Any

    @classmethod
    def of(cls, prior: PipelineParts) -> "DecoderParts":
        """Load them on the CPU: from the folder of Stage C, and those that it does not contain from the hub. Raises
        BaseModelError."""
        vqgan = _parts_with("vqgan", prior).load("vqgan", PaellaVQModel)
        return cls(load_encoder(prior), _parts_with("decoder", prior).load("decoder", CascadeUNet), vqgan)


def _parts_with(part: str, prior: PipelineParts) -> PipelineParts:
    """The location of `part`: the folder of Stage C if it contains it, otherwise the hub model."""
    if _in_folder(part, prior) is not None:
        return prior
    _require_hub(f"{part}/{CONFIG}", part, prior)
    place = BaseModelSource(OTHER_PARTS, "hub", OTHER_PARTS, prior.source.input_name)
    return PipelineParts(place, place, prior.options, {})


def load_encoder(prior: PipelineParts) -> EfficientNetEncoder:
    """The image encoder, on the CPU: from the base model's folder, or from the hub. Raises BaseModelError."""
    if _in_folder(ENCODER, prior) is not None:
        encoder: EfficientNetEncoder = prior.load(ENCODER, EfficientNetEncoder)
        return encoder
    path = _in_folder(ENCODER_FILE, prior)
    if path is None:
        _require_hub(ENCODER_FILE, ENCODER, prior)
        try:
            path = Path(hf_hub_download(OTHER_PARTS, ENCODER_FILE))
        except LOADING_ERRORS as error:
            raise BaseModelError(_cannot_load(ENCODER, prior, error)) from error
    try:
        return read_encoder(path, prior.options.dtype)
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise BaseModelError(_cannot_load(str(path), prior, error)) from error


def read_encoder(path: Path, dtype: torch.dtype) -> EfficientNetEncoder:
    """The published encoder from its file, frozen. Raises RuntimeError if the file contains other tensors."""
    with init_empty_weights():
        encoder = EfficientNetEncoder()
    encoder.load_state_dict(load_file(path), assign=True)
    nn.Module.to(encoder, dtype)  # diffusers' own method warns about layers that stay in fp32, even without any
    return encoder.eval().requires_grad_(False)


def _in_folder(name: str, prior: PipelineParts) -> Path | None:
    path = Path(prior.place.location, name)
    return path if prior.place.kind == "folder" and path.exists() else None


def _require_hub(file: str, part: str, prior: PipelineParts) -> None:
    """Raises BaseModelError if the operator does not allow the hub model, or the hub cannot be reached."""
    require_allowed(prior.source.input_name, OTHER_PARTS)
    try:
        require_hub(OTHER_PARTS, file)
    except DownloadError as error:
        raise BaseModelError(_cannot_load(part, prior, error)) from error


def _cannot_load(part: str, prior: PipelineParts, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return (
        f"{prior.source.input_name}: cannot load the {part} that belongs to {prior.place.name!r}: "
        f"{type(error).__name__}: {reason} Stable Cascade's encoder and Stages B and A are loaded from {OTHER_PARTS}, "
        f"or from {ENCODER_FILE}, decoder/ and vqgan/ beside prior/ in the folder."
    )
