"""Converts a single-file checkpoint's tensors to diffusers' components, with diffusers' own converters."""

from collections.abc import Mapping
from typing import Any

from diffusers.loaders import single_file_utils as converters
from torch import Tensor

from families.cascade.family import Cascade
from families.cascade.stage_b import StageB
from families.cascade.tensor_names import stage_tensors
from families.family import ModelFamily
from families.flux1 import Flux1
from families.flux2 import Flux2
from families.loading.flux_names import flux1_tensors
from families.loading.single_file import denoiser_names
from families.qwen_image import QwenImage
from families.sd3 import SD3
from families.sd15 import SD15
from families.z_image import ZImage

ALONE = {
    Flux1.name: flux1_tensors,
    Flux2.name: converters.convert_flux2_transformer_checkpoint_to_diffusers,
    QwenImage.name: dict,
    ZImage.name: converters.convert_z_image_transformer_checkpoint_to_diffusers,
    Cascade.name: stage_tensors,
    StageB.name: stage_tensors,
}
"""Families whose files contain only the denoiser, with the function that renames its tensors."""


def converted_denoiser(tensors: Mapping[str, Tensor], family: ModelFamily) -> Mapping[str, Tensor]:
    """The denoiser's tensors under diffusers' names, for a checkpoint of this family."""
    if family.name in ALONE:
        own = {name: tensors[key] for name, key in denoiser_names(tensors).items()}
        return own if own.keys() == family.denoiser.state_dict().keys() else dict(ALONE[family.name](own))
    if family.name == SD3.name:
        return dict(converters.convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors)))
    return dict(converters.convert_ldm_unet_checkpoint(dict(tensors), family.denoiser.config))


def converted_text_encoder(tensors: Mapping[str, Tensor], family: ModelFamily, number: int) -> Mapping[str, Tensor]:
    """The tensors of text encoder `number` under transformers' names."""
    encoder: Any = family.text_encoders[number]
    if family.name == SD3.name:
        prefix = f"text_encoders.{family.encoder_names[number]}.transformer."
        own = {name: rows for name, rows in tensors.items() if name.startswith(prefix)}
        return dict(converters.convert_ldm_clip_checkpoint(own, prefix))
    open_clip = "cond_stage_model.model." if family.name == SD15.name else f"conditioner.embedders.{number}.model."
    if any(name.startswith(open_clip) for name in tensors):
        return dict(converters.convert_open_clip_checkpoint(encoder, dict(tensors), prefix=open_clip))
    return dict(converters.convert_ldm_clip_checkpoint(dict(tensors)))
