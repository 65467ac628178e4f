"""The training noise of Stable Cascade's Stage B: noise at several resolutions."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from families.noise.cosine_process import CosineProcess
from families.noise.noise_process import Draw

DISCOUNT = 0.75
MOST_CELLS = 16
"""Largest longer side of a level, so that the levels are equally coarse for every image size."""


@dataclass(frozen=True)
class PyramidCosineProcess(CosineProcess):
    """(ε + Σ_i 0.75^i · U(ε_i)) / √(1 + Σ_i 0.75^2i), as the original code trains Stage B.

    ε_i is standard normal with the sides of the latents divided by 2^i, for the levels of at most 16 cells a side; U
    repeats its cells to the latents' size. Each value has variance 1, and neighbouring values are correlated. Sampling
    starts from plain noise.
    """

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """As for a cosine process. The levels are generated with `noise_generator`, after the finest noise."""
        drawn = super().draw(latents, timestep_generator, noise_generator)
        total, variance, level = drawn.noise, 1.0, 1
        sides = [side // 2 for side in latents.shape[-2:]]
        while min(sides) >= 1:
            if max(sides) <= MOST_CELLS:
                cells = torch.randn((*latents.shape[:2], *sides), generator=noise_generator)
                repeated = functional.interpolate(cells, size=latents.shape[-2:], mode="nearest")
                total = total + DISCOUNT**level * repeated.to(total, non_blocking=True)
                variance += DISCOUNT ** (2 * level)
            sides, level = [side // 2 for side in sides], level + 1
        return Draw(drawn.timesteps, total / variance**0.5)
