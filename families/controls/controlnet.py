"""ControlNets of families whose denoiser is diffusers' UNet2DConditionModel (Zhang et al. 2023)."""

from typing import Any

from diffusers import ControlNetModel
from torch import Tensor

from families.conditioning import Conditioning
from families.features import PromptFeatures

EMBEDDING_CHANNELS = (16, 32, 96, 256)
"""Channels of the layers that encode the image. Each but the first halves its sides, as often as the VAE does."""


def controlnet_of(pipeline: Any) -> ControlNetModel:
    """A ControlNet for the pipeline's UNet, in fp32 on its device."""
    halvings = int(pipeline.vae_scale_factor).bit_length() - 1
    channels = EMBEDDING_CHANNELS[: halvings + 1]
    made = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=channels)
    return made.float().to(pipeline.unet.device)


def unet_residuals(
    controlnet: Any,
    pictures: Tensor,
    noised: Tensor,
    timesteps: Tensor,
    prompts: PromptFeatures,
    added: dict[str, Tensor] | None = None,
) -> Conditioning:
    """The residuals of all levels, the middle block's last. `added`: SDXL's `added_cond_kwargs`."""
    dtype = controlnet.dtype
    down, middle = controlnet(
        noised.to(dtype),
        timesteps,
        encoder_hidden_states=prompts.prompt_embeds.to(dtype),
        controlnet_cond=pictures.to(dtype),
        added_cond_kwargs={name: value.to(dtype) for name, value in (added or {}).items()} or None,
        return_dict=False,
    )
    return Conditioning(residuals=(*down, middle))


def residual_inputs(conditioning: Conditioning | None, like: Tensor) -> dict[str, Any]:
    """The residuals as arguments of the UNet, in the type of `like`."""
    if conditioning is None or not conditioning.residuals:
        return {}
    *down, middle = (each.to(like.dtype) for each in conditioning.residuals)
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
