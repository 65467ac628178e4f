"""Pseudo-Huber denoising loss, which limits the effect of outlier images."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from families.noise.noise_process import NoiseProcess
from trainer.losses.denoising import difference, weighted_mean
from trainer.losses.term import StepContext
from trainer.losses.weighting import TimestepWeighting, Weighting

HuberSchedule = Literal["constant", "snr"]


@dataclass(frozen=True)
class Huber:
    """The pseudo-Huber loss 2δ·(√(d² + δ²) - δ) of the difference d: d² for small d, 2δ·|d| for large.

    It is weighted as the mean squared error is. `schedule`: "constant" uses δ as given. "snr" (Khrapov et al. 2024)
    uses (1 - δ) / (1 + 1/√SNR)² + δ: δ at pure noise, and nearly 1, that is the squared error, at low noise.
    """

    delta: float = 0.1
    schedule: HuberSchedule = "snr"
    weighting: Weighting = "uniform"
    min_snr_gamma: float = 5.0
    mask_floor: float = 0.1
    name: str = "huber"

    def __call__(self, context: StepContext) -> Tensor:
        delta = self._deltas(context.noise_process, context.draw.timesteps).view(-1, 1, 1, 1)
        squared = difference(context).square()
        error = 2 * delta * squared / ((squared + delta.square()).sqrt() + delta)  # avoids cancellation
        return weighted_mean(error, context, TimestepWeighting(self.weighting, self.min_snr_gamma), self.mask_floor)

    def _deltas(self, process: NoiseProcess, timesteps: Tensor) -> Tensor:
        """Return δ for each timestep: (B,)."""
        if self.schedule == "constant":
            return torch.full((len(timesteps),), self.delta, device=timesteps.device)
        return (1 - self.delta) / (1 + process.snr(timesteps).rsqrt()).square() + self.delta
