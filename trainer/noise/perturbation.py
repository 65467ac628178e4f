"""Input perturbation, which imitates the accumulated errors of a sampler."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from families.noise.noise_process import Draw
from trainer.distributed.batch_share import WHOLE, Share
from trainer.noise.wrapped import WrappedProcess


@dataclass(frozen=True)
class InputPerturbation(WrappedProcess):
    """x_t is made with ε + strength · ξ, ξ standard normal, while the target keeps ε (Ning et al. 2023, eq. 11)."""

    strength: float
    generator: torch.Generator = field(repr=False)
    share: Share = WHOLE

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        perturbation = self.share.normal(draw.noise.shape, self.generator).to(draw.noise, non_blocking=True)
        return self.inner.corrupt(latents, Draw(draw.timesteps, draw.noise + self.strength * perturbation))
