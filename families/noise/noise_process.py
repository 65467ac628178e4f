"""The interface of noise processes for trainer and losses: how noise is added, and what the model predicts.

Shapes: B batch, C latent channels, h and w latent pixels. x_0 are clean latents, x_t noised ones.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow", "edm"]
"""ε (Ho et al. 2020), v (Salimans & Ho 2022), the velocity noise - x_0 of a straight path (Liu et al. 2022), or F* of
EDM's preconditioning (Karras et al. 2022), which is v of latents that are scaled to deviation 1, but for its sign."""


@dataclass(frozen=True)
class Draw:
    """The random values of one step. `timesteps`: (B,), the model's timesteps. `noise`: (B, C, h, w), normally
    distributed.

    Timesteps of a discrete process are int64 in [0, T), those of a continuous one fp32 in (0, T], such as σ·T or t·T;
    those of EDM are ¼ ln σ.
    """

    timesteps: Tensor
    noise: Tensor


class NoiseProcess(Protocol):
    """A way to add noise. All methods are deterministic, except `draw`, which uses the given generators."""

    @property
    def prediction_type(self) -> PredictionType: ...

    @property
    def num_timesteps(self) -> int:
        """T: timesteps run from 0 (clean) to T (noise), except EDM's."""

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the latents are pure noise at T."""

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Timesteps and noise for `latents` (B, C, h, w), generated on the CPU, so that a seed has the same result on
        every device."""

    def timesteps_at(self, fractions: Tensor, shape: torch.Size) -> Tensor:
        """The timesteps (B,) at `fractions` (B,) in (0, 1) from clean to noise, for latents of `shape` (B, C, h, w):
        some processes shift timesteps by the size of the image."""

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        """x_t for x_0 = `latents`: (B, C, h, w)."""

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        """What the model should predict for x_0 = `latents`: (B, C, h, w)."""

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that a prediction implies: (B, C, h, w)."""

    def to_noise(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The noise ε that a prediction implies: (B, C, h, w)."""

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio, of variances: (B,). 0 for pure noise."""
