"""diffusers' scheduler of Stable Cascade with the noise shift of the original code's sampler."""

import math

import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.configuration_utils import register_to_config

from families.noise.cosine_process import LEAST, MOST, CosineProcess

STAGE_C_SHIFT, STAGE_B_SHIFT = 2.0, 1.0
"""The value of the original code and ComfyUI; diffusers' own scheduler has no shift."""


class ShiftedCosineScheduler(DDPMWuerstchenScheduler):
    """`logsnr_shift`: log SNR is lowered by 2 ln(shift) along the way (Hoogeboom et al. 2023, eq. 4), so that more
    steps are used at the noise levels that determine an image's layout."""

    @register_to_config
    def __init__(self, scaler: float = 1.0, s: float = 0.008, logsnr_shift: float = 1.0) -> None:
        super().__init__(scaler, s)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        timesteps: list[float] | torch.Tensor | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Even steps in t before the shift, clamped to the times that the denoiser was trained on."""
        if timesteps is None:
            assert num_inference_steps is not None
            timesteps = self._shifted(num_inference_steps).to(device)
        super().set_timesteps(timesteps=timesteps, device=device)

    def _shifted(self, steps: int) -> torch.Tensor:
        """The times t, fp32 (steps + 1,), decreasing."""
        process = CosineProcess(self.config.s)
        alphas = process.alphas(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64))
        shifted = torch.sigmoid(alphas.logit() - 2 * math.log(self.config.logsnr_shift))
        return process.times(shifted.clamp(LEAST, MOST)).float()
