"""Conversion of images to latents with AutoencoderKL (Rombach et al. 2022), shared by families."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def posterior_moments(vae: Any, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → mean and log-variance (B, 2C, h, w) in fp32."""
    with _safe_precision(vae):
        return vae.encode(pixels.to(_dtype(vae))).latent_dist.parameters.float()


def posterior_shape(moments: torch.Size) -> torch.Size:
    """The shape (B, C, h, w) of latents whose moments have the shape (B, 2C, h, w)."""
    count, channels, *place = moments
    return torch.Size((count, channels // 2, *place))


def sample_posterior(moments: Tensor, noise: Tensor) -> Tensor:
    """A sample (B, C, h, w) of N(mean, exp(log-variance)), for moments (B, 2C, h, w) and normal noise (B, C, h, w)."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise


def normalised(vae: Any, latents: Tensor) -> Tensor:
    """(z - shift_factor) · scaling_factor, as VAEs are normalised from SD3 on (Esser et al. 2024)."""
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def unnormalised(vae: Any, latents: Tensor) -> Tensor:
    """The reverse of `normalised`."""
    return latents / vae.config.scaling_factor + vae.config.shift_factor


def standardised(vae: Any, latents: Tensor) -> Tensor:
    """z · scaling_factor, or (z - mean) / std · scaling_factor if the VAE's configuration has both for each channel, as
    in Playground 2.5."""
    if (moments := _channel_moments(vae, latents)) is None:
        return latents * vae.config.scaling_factor
    mean, deviation = moments
    return (latents - mean) * vae.config.scaling_factor / deviation


def unstandardised(vae: Any, latents: Tensor) -> Tensor:
    """The reverse of `standardised`."""
    if (moments := _channel_moments(vae, latents)) is None:
        return latents / vae.config.scaling_factor
    mean, deviation = moments
    return latents * deviation / vae.config.scaling_factor + mean


def _channel_moments(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of the channels, each (1, C, 1, 1)."""
    values = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if values[0] is None or values[1] is None:  # as in diffusers' pipeline: both, or neither
        return None
    mean, deviation = (torch.tensor(each).view(1, -1, 1, 1).to(latents) for each in values)
    return mean, deviation


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Unscaled latents (B, C, h, w) → pixels (B, 3, H, W) in about [-1, 1], fp32."""
    with _safe_precision(vae):
        return vae.decode(latents.to(_dtype(vae))).sample.float()


@contextmanager
def _safe_precision(vae: Any) -> Iterator[None]:
    """SDXL's own VAE overflows in fp16: a VAE with `force_upcast` computes in fp32 inside this context."""
    if _dtype(vae) != torch.float16 or not vae.config.get("force_upcast", False):
        yield
        return
    vae.float()
    try:
        yield
    finally:
        vae.half()


def _dtype(vae: Any) -> torch.dtype:
    """The dtype of its weights, which all have the same: diffusers' `dtype` checks each one, which takes a fifteenth of
    the time of an image with 64 pixels a side."""
    dtype: torch.dtype = next(vae.parameters()).dtype
    return dtype


def freeze(*modules: Any) -> None:
    """Freeze parts of a base: only adapters on them are trained."""
    for module in modules:
        if module is not None:
            module.requires_grad_(False).eval()
