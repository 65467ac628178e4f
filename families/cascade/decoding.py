"""Stages B and A: from the latents of Stage C to pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

DECODER_STEPS, DECODER_GUIDANCE = 10, 1.1
"""Steps and guidance of Stage B in the original code."""
PIXELS_SCALE = 4 / 3
"""An image's side divided by that of the encoder's input: 1024 pixels are encoded as 768."""

Conditions = Mapping[str, Tensor]
Predict = Callable[[Tensor, Tensor], Tensor]
"""From noised latents (B, C, h, w) and times (B,) in [0, 1] to ε (B, C, h, w), fp32."""


class StageBPipeline(DiffusionPipeline):
    """Decodes latents of Stage C with Stages B and A."""

    def __init__(self, decoder: Any, scheduler: Any, vqgan: Any, encoder: Any) -> None:
        super().__init__()
        self.register_modules(decoder=decoder, scheduler=scheduler, vqgan=vqgan, encoder=encoder)

    @torch.no_grad()
    def __call__(
        self,
        latents: Tensor,
        pooled: Tensor,
        negative_pooled: Tensor,
        generator: Sequence[torch.Generator],
        num_inference_steps: int = DECODER_STEPS,
        guidance_scale: float = DECODER_GUIDANCE,
        step: Callable[[Tensor], None] = lambda time: None,
    ) -> Tensor:
        """Latents (B, C, h, w) of Stage C → pixels (B, 3, H, W) in [0, 1], fp32. `pooled`: (B, 1, P)."""
        wanted = {"clip_text_pooled": pooled, "effnet": latents.to(pooled.dtype)}
        unwanted = {"clip_text_pooled": negative_pooled, "effnet": torch.zeros_like(wanted["effnet"])}
        reduction = PIXELS_SCALE * self.encoder.reduction / pixels_per_code(self.vqgan)
        sides = (round(side * reduction) for side in latents.shape[-2:])
        shape = (len(latents), self.decoder.config.in_channels, *sides)
        noise = randn_tensor(shape, generator=list(generator), device=self.device, dtype=torch.float32)
        predict = guided(self.decoder, wanted, unwanted, guidance_scale)
        return decoded(self.vqgan, drawn(predict, self.scheduler, noise, num_inference_steps, generator, step))


def pixels_per_code(vqgan: Any) -> int:
    """Pixels per latent of Stage A, along one side: 4."""
    return int(vqgan.config.up_down_scale_factor * 2 ** (vqgan.config.levels - 1))


def encoded(vqgan: Any, pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [0, 1] → Stage A's latents (B, 4, H/4, W/4) as Stage B uses them, fp32."""
    return vqgan.encode(pixels.to(vqgan.dtype)).latents.float() / vqgan.config.scale_factor


def decoded(vqgan: Any, codes: Tensor) -> Tensor:
    """The reverse of `encoded`, within [0, 1]."""
    scaled = vqgan.config.scale_factor * codes
    return vqgan.decode(scaled.to(vqgan.dtype)).sample.clamp(0, 1).float()


def guided(stage: Any, wanted: Conditions, unwanted: Conditions, scale: float, rescale: float = 0.0) -> Predict:
    """A stage's prediction with classifier-free guidance (Ho & Salimans 2022); without guidance if `scale` is at most
    1.

    `rescale`: φ of Lin et al. 2023, §3.4.
    """

    def predict(latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        dtype = conditions["clip_text_pooled"].dtype
        return stage(latents.to(dtype), timestep_ratio=times, **conditions).sample.float()

    if scale <= 1:
        return lambda latents, times: predict(latents, times, wanted)
    both = {name: torch.cat([wanted[name], unwanted[name]]) for name in wanted}

    def predict_twice(latents: Tensor, times: Tensor) -> Tensor:
        positive, negative = predict(torch.cat([latents] * 2), torch.cat([times] * 2), both).chunk(2)
        found = torch.lerp(negative, positive, scale)
        return rescale_noise_cfg(found, positive, rescale) if rescale else found

    return predict_twice


def drawn(
    predict: Predict,
    scheduler: Any,
    latents: Tensor,
    steps: int,
    generator: Sequence[torch.Generator],
    step: Callable[[Tensor], None],
) -> Tensor:
    """Denoise in fp32. The scheduler's last time is the end, not a step."""
    scheduler.set_timesteps(steps, device=latents.device)
    for time in scheduler.timesteps[:-1]:
        times = time.expand(len(latents))
        prediction = predict(latents, times)
        latents = scheduler.step(prediction, times, latents, generator=list(generator)).prev_sample
        step(time)
    return latents
