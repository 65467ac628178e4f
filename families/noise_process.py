"""How noise is added and what the model predicts, for the variance-preserving diffusion of SD1.5, SD2 and SDXL.

x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε                     (Ho et al. 2020, eq. 4)
v_t = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x_0                     (Salimans & Ho 2022, eq. 11)

Shapes: B batch, C latent channels, h = H / 8 and w = W / 8 (H / 4, W / 4 in the embedded base).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Draw:
    """The randomness of one step. `timesteps`: (B,) int64 in [0, T). `noise`: (B, C, h, w), standard normal."""

    timesteps: Tensor
    noise: Tensor


@dataclass(frozen=True)
class DiffusionProcess:
    """A discrete diffusion. `alphas_cumprod`: (T,), ᾱ_t, falling from near 1 to near 0."""

    alphas_cumprod: Tensor
    prediction_type: PredictionType

    @classmethod
    def from_scheduler(cls, scheduler: object) -> "DiffusionProcess":
        """Read ᾱ and the prediction type from the base's own scheduler.

        Raises ValueError when the checkpoint predicts something else than ε or v.
        """
        config = scheduler.config  # type: ignore[attr-defined]
        if config.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {config.prediction_type!r} is neither 'epsilon' nor 'v_prediction'")
        return cls(scheduler.alphas_cumprod.float().clone(), config.prediction_type)  # type: ignore[attr-defined]

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Draw on the CPU, so that a seed means the same on every device. `latents`: (B, C, h, w)."""
        timesteps = torch.randint(0, len(self.alphas_cumprod), (len(latents),), generator=timestep_generator)
        noise = torch.randn(latents.shape, generator=noise_generator)
        return Draw(timesteps.to(latents.device), noise.to(latents.device))

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        """x_t for x_0 = `latents`: (B, C, h, w)."""
        signal, noise = self._scales(draw.timesteps)
        return signal * latents + noise * draw.noise

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        """What the model should predict for x_0 = `latents`: (B, C, h, w)."""
        if self.prediction_type == "epsilon":
            return draw.noise
        signal, noise = self._scales(draw.timesteps)
        return signal * draw.noise - noise * latents

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that a prediction implies: (B, C, h, w)."""
        signal, noise = self._scales(timesteps)
        if self.prediction_type == "epsilon":
            return (noised - noise * prediction) / signal
        return signal * noised - noise * prediction

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio ᾱ / (1 - ᾱ): (B,)."""
        alphas = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return alphas / (1 - alphas)

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()
