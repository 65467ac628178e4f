"""Draws the noise of a batch that several processes train together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw
from trainer.distributed.batch_share import Share
from trainer.noise.wrapped import WrappedProcess


@dataclass(frozen=True)
class SharedDraws(WrappedProcess):
    """Draws for the images of all processes, and keeps the draws of this process."""

    share: Share

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Draw for the `latents` (B, C, h, w) of this process."""
        whole = torch.empty(self.share.whole_shape(latents.shape))
        drawn = self.inner.draw(whole, timestep_generator, noise_generator)
        timesteps, noise = self.share.of(drawn.timesteps), self.share.of(drawn.noise)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise.to(latents.device, non_blocking=True))
