"""A noise process that delegates to another one. Subclasses override single methods."""

from dataclasses import dataclass

import torch
from torch import Tensor

from families.noise.noise_process import Draw, NoiseProcess, PredictionType


@dataclass(frozen=True)
class WrappedProcess:
    """`inner`, unchanged. Implements `families.noise.noise_process.NoiseProcess`."""

    inner: NoiseProcess

    @property
    def prediction_type(self) -> PredictionType:
        return self.inner.prediction_type

    @property
    def num_timesteps(self) -> int:
        return self.inner.num_timesteps

    @property
    def zero_terminal_snr(self) -> bool:
        return self.inner.zero_terminal_snr

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        return self.inner.draw(latents, timestep_generator, noise_generator)

    def timesteps_at(self, fractions: Tensor, shape: torch.Size) -> Tensor:
        return self.inner.timesteps_at(fractions, shape)

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        return self.inner.corrupt(latents, draw)

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        return self.inner.target(latents, draw)

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return self.inner.to_x0(noised, prediction, timesteps)

    def to_noise(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        return self.inner.to_noise(noised, prediction, timesteps)

    def snr(self, timesteps: Tensor) -> Tensor:
        return self.inner.snr(timesteps)
