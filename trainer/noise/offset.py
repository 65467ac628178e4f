"""Offset noise: noise with a random mean per channel, for darker and lighter images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw
from trainer.noise.wrapped import WrappedProcess


@dataclass(frozen=True)
class NoiseOffset(WrappedProcess):
    """ε + strength · δ, with δ standard normal for each image and channel (Guttenberg 2023).

    For ε-prediction, and for v-prediction without zero terminal SNR, with which brightness is learned without it.
    """

    strength: float

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """As `inner`. The offset is sampled from `noise_generator`, after the noise."""
        drawn = self.inner.draw(latents, timestep_generator, noise_generator)
        offset = torch.randn((*latents.shape[:2], 1, 1), generator=noise_generator).to(drawn.noise, non_blocking=True)
        return Draw(drawn.timesteps, drawn.noise + self.strength * offset)
