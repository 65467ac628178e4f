"""DREAM (Zhou et al. 2024, arXiv 2312.00210): corrects the noise by the model's own error.

A sampler continues from its own errors, whereas training uses exact inputs. DREAM trains on inputs with such an error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw, NoiseProcess

Predict = Callable[[Tensor, Tensor], Tensor]
"""The model's prediction for noised latents (B, C, h, w) at timesteps (B,)."""


@dataclass(frozen=True)
class Dream:
    """ε + σ^p · (ε - ε̂) in place of ε, where ε̂ is the model's estimate of the noise. Costs one pass without
    gradients.

    The paper adds the difference to input and target of ε-prediction. Both are functions of x_0 and ε, so changing ε is
    equivalent, and also correct for v and flow. `power`: p, the exponent of the noise's scale σ; with larger values the
    effect is smaller.
    """

    power: float

    @torch.no_grad()
    def __call__(self, process: NoiseProcess, latents: Tensor, draw: Draw, predict: Predict) -> Draw:
        noised = process.corrupt(latents, draw)
        found = process.to_noise(noised, predict(noised, draw.timesteps).float(), draw.timesteps)
        strength = noise_scale(process, draw.timesteps).pow(self.power).view(-1, 1, 1, 1)
        return Draw(draw.timesteps, draw.noise + strength * (draw.noise - found))


def noise_scale(process: NoiseProcess, timesteps: Tensor) -> Tensor:
    """σ (B,), the factor of ε in x_t, 0 to 1."""
    snr = process.snr(timesteps)
    return 1 / (1 + snr.sqrt()) if process.prediction_type == "flow" else (1 + snr).rsqrt()
