"""Restricts or biases the trained timesteps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw
from trainer.noise.wrapped import WrappedProcess


@dataclass(frozen=True)
class TimestepRange(WrappedProcess):
    """Timesteps at fractions u of the way to noise, `low` ≤ u < `high`.

    Without `bias` u is uniform in the range. With bias m it is logit-normal, sigmoid(N(m, 1)) (Esser et al. 2024,
    §3.1), scaled to the range: m > 0 trains layout and colours more often, m < 0 details. `fractions`: draws the
    fractions that are scaled to the range, instead.
    """

    low: float
    high: float
    bias: float | None = None
    fractions: Callable[[int, torch.Generator], Tensor] | None = None

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Draw the noise from `inner`, and replace its timesteps."""
        noise = self.inner.draw(latents, timestep_generator, noise_generator).noise
        if self.fractions is not None:
            shares = self.fractions(len(latents), timestep_generator)
        elif self.bias is None:
            shares = torch.rand(len(latents), generator=timestep_generator)
        else:
            shares = (torch.randn(len(latents), generator=timestep_generator) + self.bias).sigmoid()
        below = torch.nextafter(torch.tensor(self.high), torch.tensor(0.0))  # rounding may reach `high`
        fractions = (self.low + (self.high - self.low) * shares).minimum(below)
        timesteps = self.inner.timesteps_at(fractions, latents.shape)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise)
