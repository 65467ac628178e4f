"""Shared by families whose denoiser is diffusers' UNet2DConditionModel."""

from collections.abc import Mapping
from typing import Any

from families.errors import BaseModelError

UNET_ADAPTER_MODULES: Mapping[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed-forward": ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    "convolutions": ("conv1", "conv2", "conv_shortcut"),
}


def unet_resolution(pipeline: Any) -> int:
    """Return the side in pixels of the square that the UNet was trained for."""
    return int(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)


def unet_size_multiple(pipeline: Any) -> int:
    """Return the VAE's reduction times the UNet's: 64 for SD1.5, 32 for SDXL."""
    return int(pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1))


def require_text_to_image(pipeline: Any, name: str) -> None:
    """Raises BaseModelError for a UNet with additional inputs: inpainting, editing, depth."""
    channels, expected = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if channels != expected:
        kinds = {9: "an inpainting model", 8: "an image-editing model", 5: "a depth model"}
        kind = kinds.get(channels, "not a text-to-image model")
        raise BaseModelError(
            f"base_model: {name} is {kind}: its UNet has {channels} input channels instead of {expected}. Train on the "
            "text-to-image model that it was made from."
        )
