"""The noise process of EDM (Karras et al. 2022, arXiv 2206.00364), for models such as Playground 2.5 and CosXL.

x = x_0 + σ n,   D(x; σ) = c_skip x + c_out F(c_in x; c_noise)                        (eq. 7), with (table 1)
c_skip = σ_d² / (σ² + σ_d²),  c_out = σ σ_d / √(σ² + σ_d²),  c_in = 1 / √(σ² + σ_d²),  c_noise = ¼ ln σ

The loss is λ(σ)·|D - x_0|² with λ = (σ² + σ_d²) / (σ σ_d)² = 1 / c_out² (eq. 2 and §5). It is |F - F*|² with F* = (x_0
- c_skip x) / c_out (eq. 8) = (σ x_0 / σ_d - σ_d n) / √(σ² + σ_d²). So preconditioning and weights are one process: the
denoiser reads c_in x, and should predict F*, with equal weights for all σ.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw, PredictionType


@dataclass(frozen=True)
class EDMProcess:
    """Timesteps are fp32, c_noise = ¼ ln σ, as the denoiser reads them. `sigma_data`: σ_d, the deviation of the
    latents. `sign`: -1 if the denoiser predicts -F* (diffusers' prediction_type v_prediction, as CosXL). `rho`: of the
    schedule between the ends (eq. 5); None: ln σ is linear. `mean`, `deviation`: of ln σ in training (table 1).
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float | None = 7.0
    sign: int = 1
    mean: float = -1.2
    deviation: float = 1.2
    prediction_type: PredictionType = "edm"
    num_timesteps: int = 1000

    @property
    def zero_terminal_snr(self) -> bool:
        return False

    @property
    def timestep_ends(self) -> tuple[float, float]:
        """c_noise at the smallest and at the largest σ."""
        return math.log(self.sigma_min) / 4, math.log(self.sigma_max) / 4

    @classmethod
    def describes(cls, scheduler: object) -> bool:
        """Whether it is a scheduler of EDM, such as diffusers' EDMEulerScheduler and EDMDPMSolverMultistepScheduler."""
        return "sigma_data" in scheduler.config  # type: ignore[attr-defined]

    @classmethod
    def from_scheduler(cls, scheduler: object) -> "EDMProcess":
        """Read the parameters of the base's own scheduler. Raises ValueError for a scheduler of another kind."""
        config = scheduler.config  # type: ignore[attr-defined]
        if not cls.describes(scheduler):
            raise ValueError(f"{type(scheduler).__name__} is not a scheduler of EDM: it has no sigma_data")
        rho = float(config.rho) if config.sigma_schedule == "karras" else None
        sign = -1 if config.prediction_type == "v_prediction" else 1
        return cls(float(config.sigma_data), float(config.sigma_min), float(config.sigma_max), rho, sign)

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """ln σ is normal, within the ends of the schedule."""
        timesteps = self._drawn(len(latents), timestep_generator)
        noise = torch.randn(latents.shape, generator=noise_generator)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise.to(latents.device, non_blocking=True))

    def draw_fractions(self, count: int, generator: torch.Generator) -> Tensor:
        """The fractions (count,) of `timesteps_at` for timesteps that are drawn as by `draw`."""
        timesteps, (low, high) = self._drawn(count, generator), self.timestep_ends
        if self.rho is None:
            return (timesteps - low) / (high - low)
        ends = self._curved_ends(self.rho)
        return ((4 * timesteps / self.rho).exp() - ends[0]) / (ends[1] - ends[0])

    def timesteps_at(self, fractions: Tensor, shape: torch.Size) -> Tensor:
        """fp32: c_noise on the schedule of a sampler, for every shape."""
        low, high = self.timestep_ends
        if self.rho is None:
            return (low + fractions * (high - low)).float()
        ends = self._curved_ends(self.rho)
        return ((ends[0] + fractions * (ends[1] - ends[0])).log() * self.rho / 4).float()

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        """c_in (x_0 + σ n)."""
        signal, noise = self._scales(draw.timesteps)
        return signal / self.sigma_data * latents + noise * draw.noise

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        signal, noise = self._scales(draw.timesteps)
        return self.sign * (noise / self.sigma_data * latents - signal * draw.noise)

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        signal, noise = self._scales(timesteps)
        return self.sigma_data * (signal * noised + self.sign * noise * prediction)

    def to_noise(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        signal, noise = self._scales(timesteps)
        return noise * noised - self.sign * signal * prediction

    def snr(self, timesteps: Tensor) -> Tensor:
        """(σ_d / σ)²: (B,), for latents of the deviation σ_d."""
        return self.sigma_data**2 * torch.exp(-8 * timesteps)

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        logarithms = self.mean + self.deviation * torch.randn(count, generator=generator)
        low, high = self.timestep_ends
        return (logarithms / 4).clamp(low, high)

    def _curved_ends(self, rho: float) -> tuple[float, float]:
        return self.sigma_min ** (1 / rho), self.sigma_max ** (1 / rho)

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """σ_d c_in and σ c_in: the factors of x_0 / σ_d and n; the sum of their squares is 1."""
        sigmas = torch.exp(4 * timesteps).view(-1, 1, 1, 1)
        length = (sigmas.square() + self.sigma_data**2).sqrt()
        return self.sigma_data / length, sigmas / length
