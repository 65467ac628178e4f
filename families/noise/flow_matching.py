"""Flow matching on straight paths, as in SD3 and SD3.5 (Esser et al. 2024).

x_σ = (1 - σ) x_0 + σ ε, target ε - x_0                    (§2, rectified flow)
σ = s·u / (1 + (s - 1)·u), u = sigmoid(n), n standard normal   (§3.1 logit-normal, §5.3.2 shift)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw, PredictionType


@dataclass(frozen=True)
class FlowMatching:
    """`shift`: s; above 1 it shifts the timesteps towards noise, as needed for large images: a number, or a function of
    the latents' height and width. The model gets σ·T as its timestep.
    """

    shift: float | Callable[[int, int], float] = 1.0
    num_timesteps: int = 1000
    prediction_type: PredictionType = "flow"

    @property
    def zero_terminal_snr(self) -> bool:
        return True

    @classmethod
    def from_scheduler(cls, scheduler: object, patch: int | None = None) -> "FlowMatching":
        """Read the shift from the base's own scheduler. `patch`: latent pixels per token along one side, for families
        whose shift depends on the number of image tokens. Raises ValueError when it is not a flow-matching scheduler,
        or its shift depends on the image size and there is no `patch`.
        """
        config = scheduler.config  # type: ignore[attr-defined]
        if "shift" not in config:
            raise ValueError(f"{type(scheduler).__name__} is not a scheduler for flow matching: it has no shift")
        shift: float | Callable[[int, int], float] = float(config.shift)
        if config.get("use_dynamic_shifting"):
            if patch is None:
                raise ValueError(
                    "the shift of its scheduler depends on the image size (use_dynamic_shifting), which SD3 does not "
                    "support"
                )
            first = config.get("base_image_seq_len", 256), config.get("base_shift", 0.5)
            second = config.get("max_image_seq_len", 4096), config.get("max_shift", 1.15)
            shift = shift_by_tokens(patch, first, second)
        return cls(shift, int(config.num_train_timesteps))

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Timesteps are logit-normal, shifted."""
        fractions = torch.randn(len(latents), generator=timestep_generator).sigmoid()
        noise = torch.randn(latents.shape, generator=noise_generator)
        timesteps = self.timesteps_at(fractions, latents.shape)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise.to(latents.device, non_blocking=True))

    def timesteps_at(self, fractions: Tensor, shape: torch.Size) -> Tensor:
        """fp32: T·σ, where the fraction is the u that is shifted."""
        shift = self.shift(*shape[-2:]) if callable(self.shift) else self.shift
        sigmas = shift * fractions / (1 + (shift - 1) * fractions)
        return (sigmas * self.num_timesteps).float()

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        sigmas = self._sigmas(draw.timesteps)
        return (1 - sigmas) * latents + sigmas * draw.noise

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        return draw.noise - latents

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return noised - self._sigmas(timesteps) * prediction

    def to_noise(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return noised + (1 - self._sigmas(timesteps)) * prediction

    def snr(self, timesteps: Tensor) -> Tensor:
        """((1 - σ) / σ)²: (B,)."""
        sigmas = timesteps / self.num_timesteps
        return ((1 - sigmas) / sigmas).square()

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        return (timesteps / self.num_timesteps).view(-1, 1, 1, 1)


def shift_by_tokens(patch: int, first: tuple[int, float], second: tuple[int, float]) -> Callable[[int, int], float]:
    """exp(μ), where μ is linear in the number of image tokens, through two points (tokens, μ), as in FLUX.1's
    scheduler: (256, 0.5) and (4096, 1.15). `patch`: latent pixels per token along one side."""
    slope = (second[1] - first[1]) / (second[0] - first[0])

    def shift(height: int, width: int) -> float:
        tokens = (height // patch) * (width // patch)
        return math.exp(first[1] + slope * (tokens - first[0]))

    return shift
