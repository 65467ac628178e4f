"""Flow matching on straight paths, as SD3 and SD3.5 are trained (Esser et al. 2024).

x_σ = (1 - σ) x_0 + σ ε, target ε - x_0                    (§2, rectified flow)
σ = s·u / (1 + (s - 1)·u), u = sigmoid(n), n standard normal   (§3.1 logit-normal, §5.3.2 shift)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw, PredictionType


@dataclass(frozen=True)
class FlowMatching:
    """`shift`: s; above 1 it moves the draws towards noise, as large pictures need. The model's timestep is σ·T."""

    shift: float = 1.0
    num_timesteps: int = 1000
    prediction_type: PredictionType = "flow"

    @property
    def zero_terminal_snr(self) -> bool:
        return True

    @classmethod
    def from_scheduler(cls, scheduler: object) -> "FlowMatching":
        """Read the shift from the base's own scheduler.

        Raises ValueError when it is no flow-matching scheduler, or shifts by the picture's size.
        """
        config = scheduler.config  # type: ignore[attr-defined]
        if "shift" not in config:
            raise ValueError(f"{type(scheduler).__name__} is no scheduler for flow matching: it has no shift")
        if config.get("use_dynamic_shifting"):
            raise ValueError("its scheduler shifts by the picture's size (use_dynamic_shifting), which SD3 does not")
        return cls(float(config.shift), int(config.num_train_timesteps))

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Timesteps are logit-normal, shifted."""
        fractions = torch.randn(len(latents), generator=timestep_generator).sigmoid()
        noise = torch.randn(latents.shape, generator=noise_generator)
        timesteps = self.timesteps_at(fractions)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise.to(latents.device, non_blocking=True))

    def timesteps_at(self, fractions: Tensor) -> Tensor:
        """fp32: T·σ, where the fraction is the u that is shifted."""
        sigmas = self.shift * fractions / (1 + (self.shift - 1) * fractions)
        return (sigmas * self.num_timesteps).float()

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        sigmas = self._sigmas(draw.timesteps)
        return (1 - sigmas) * latents + sigmas * draw.noise

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        return draw.noise - latents

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return noised - self._sigmas(timesteps) * prediction

    def snr(self, timesteps: Tensor) -> Tensor:
        """((1 - σ) / σ)²: (B,)."""
        sigmas = timesteps / self.num_timesteps
        return ((1 - sigmas) / sigmas).square()

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        return (timesteps / self.num_timesteps).view(-1, 1, 1, 1)
