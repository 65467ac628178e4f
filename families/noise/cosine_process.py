"""The continuous cosine diffusion of Stable Cascade, predicting ε (Pernias et al. 2024; Nichol & Dhariwal 2021).

x_t = √ᾱ x_0 + √(1 - ᾱ) ε,   ᾱ(t) = cos²((t + s) / (1 + s) · π/2) / cos²(s / (1 + s) · π/2),   t in [0, 1]

ᾱ is clamped to [0.0001, 0.9999], so log SNR lies within ±9.21, and pure noise is never trained.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw, PredictionType

LEAST, MOST = 0.0001, 0.9999
"""The range of ᾱ."""
SMALLEST_TIME = 0.001


@dataclass(frozen=True)
class CosineProcess:
    """`s`: the offset of the cosine. Timesteps are fp32, 1000 · t."""

    s: float = 0.008
    num_timesteps: int = 1000
    prediction_type: PredictionType = "epsilon"

    @property
    def zero_terminal_snr(self) -> bool:
        return False

    @classmethod
    def from_scheduler(cls, scheduler: object) -> "CosineProcess":
        """Read s from diffusers' DDPMWuerstchenScheduler.

        Raises ValueError for another scheduler, or one with a `scaler` other than 1.
        """
        config = scheduler.config  # type: ignore[attr-defined]
        if "scaler" not in config or "s" not in config:
            raise ValueError(
                f"{type(scheduler).__name__} is not a scheduler of a cosine diffusion: it has no scaler or s"
            )
        if config.scaler != 1:
            raise ValueError(f"its scheduler has the scaler {config.scaler}, but only 1 is supported")
        return cls(float(config.s))

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Timesteps are uniform; the smallest t is 0.001."""
        fractions = 1 - torch.rand(len(latents), generator=timestep_generator)
        noise = torch.randn(latents.shape, generator=noise_generator)
        timesteps = self.timesteps_at(fractions, latents.shape)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise.to(latents.device, non_blocking=True))

    def timesteps_at(self, fractions: Tensor, shape: torch.Size) -> Tensor:
        """fp32: 1000 · (fraction + 0.001), at most 1000, for every shape."""
        times = (fractions.float() + SMALLEST_TIME).clamp(SMALLEST_TIME, 1.0)
        return times * self.num_timesteps

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        signal, noise = self._scales(draw.timesteps)
        return signal * latents + noise * draw.noise

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        return draw.noise

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        signal, noise = self._scales(timesteps)
        return (noised - noise * prediction) / signal

    def to_noise(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return prediction

    def snr(self, timesteps: Tensor) -> Tensor:
        """ᾱ / (1 - ᾱ): (B,)."""
        alphas = self.alphas(timesteps / self.num_timesteps)
        return alphas / (1 - alphas)

    def alphas(self, times: Tensor) -> Tensor:
        """ᾱ at t in [0, 1], in the dtype of `times`."""
        angles = (times + self.s) / (1 + self.s) * (math.pi / 2)
        return (angles.cos().square() / self._start).clamp(LEAST, MOST)

    def times(self, alphas: Tensor) -> Tensor:
        """The t at which ᾱ is `alphas`, for values in the range: the inverse of `alphas`."""
        return (alphas * self._start).sqrt().acos() * (2 / math.pi) * (1 + self.s) - self.s

    def shown(self, timesteps: Tensor) -> Tensor:
        """The t that the denoiser gets, fp32: within the range of t in which ᾱ changes, as in the original code."""
        first, last = (math.acos(math.sqrt(alpha * self._start)) * 2 / math.pi for alpha in (MOST, LEAST))
        times = timesteps.float() / self.num_timesteps
        return times.clamp(first * (1 + self.s) - self.s, last * (1 + self.s) - self.s)

    @property
    def _start(self) -> float:
        """cos² at t = 0."""
        return math.cos(self.s / (1 + self.s) * math.pi / 2) ** 2

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas(timesteps / self.num_timesteps).view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()
