"""Pyramid noise: noise at several resolutions, for large areas of light and colour."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from families.noise.noise_process import Draw
from trainer.noise.wrapped import WrappedProcess

LEAST_REDUCTION, MOST_REDUCTION = 2.0, 4.0
"""Range of the random factor between the sizes of successive levels."""


@dataclass(frozen=True)
class PyramidNoise(WrappedProcess):
    """(ε + Σ_k d^k · U(ε_k)) / σ, as in kohya's multires noise (Whitaker 2023, "multi-resolution noise").

    ε_k is standard normal with the sides of the latents divided by r^k, r uniform in [2, 4); U enlarges it, bilinearly,
    to the latents' size; σ is the deviation of each image's sum. k goes from 1 to `iterations`, or ends when a side is
    1. `discount`: d.
    """

    iterations: int
    discount: float

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """As `inner`. The levels are sampled from `noise_generator`, after the noise."""
        drawn = self.inner.draw(latents, timestep_generator, noise_generator)
        height, width = latents.shape[-2:]
        total = drawn.noise
        for level in range(1, self.iterations + 1):
            spread = MOST_REDUCTION - LEAST_REDUCTION
            reduction = LEAST_REDUCTION + spread * float(torch.rand((), generator=noise_generator))
            sides = [max(1, int(side / reduction**level)) for side in (height, width)]
            coarse = torch.randn((*latents.shape[:2], *sides), generator=noise_generator)
            enlarged = functional.interpolate(coarse, size=(height, width), mode="bilinear")
            total = total + self.discount**level * enlarged.to(total, non_blocking=True)
            if min(sides) == 1:
                break
        return Draw(drawn.timesteps, total / total.std(dim=(1, 2, 3), keepdim=True))
