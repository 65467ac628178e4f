"""The variance-preserving diffusion of SD1.5, SD2 and SDXL, predicting ε or v.

x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε                     (Ho et al. 2020, eq. 4)
v_t = sqrt(ᾱ_t) ε - sqrt(1 - ᾱ_t) x_0                     (Salimans & Ho 2022, eq. 11)

With zero terminal SNR, ᾱ falls to exactly 0 (Lin et al. 2023, §3.1), so that the model is trained to start from pure
noise; ε is not informative there, so v is needed (§3.2).
"""

from dataclasses import dataclass, field

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from families.noise.noise_process import Draw, PredictionType


@dataclass(frozen=True)
class DiffusionProcess:
    """A discrete diffusion. `alphas_cumprod`: (T,), ᾱ_t, decreasing from near 1 to near 0, or to 0."""

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_scheduler(cls, scheduler: object) -> "DiffusionProcess":
        """Read ᾱ and the prediction type from the base's own scheduler, whatever its class.

        Raises ValueError when the scheduler has no betas, or the checkpoint predicts neither ε nor v, or ε at zero
        terminal SNR.
        """
        if "beta_schedule" not in scheduler.config:  # type: ignore[attr-defined]
            raise ValueError(
                f"{type(scheduler).__name__} has no betas: the base model is trained with another kind of noise"
            )
        schedule = DDPMScheduler.from_config(scheduler.config)  # type: ignore[attr-defined]
        kind = schedule.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {kind!r} is neither 'epsilon' nor 'v_prediction'")
        process = cls(schedule.alphas_cumprod.float().clone(), kind)
        if process.zero_terminal_snr and kind == "epsilon":
            raise ValueError(
                "zero terminal SNR needs v-prediction: in pure noise, ε contains no information about the image"
            )
        return process

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep is pure noise."""
        return bool(self.alphas_cumprod[-1] == 0)

    def draw(self, latents: Tensor, timestep_generator: torch.Generator, noise_generator: torch.Generator) -> Draw:
        """Timesteps are uniform."""
        timesteps = torch.randint(0, self.num_timesteps, (len(latents),), generator=timestep_generator)
        noise = torch.randn(latents.shape, generator=noise_generator)
        return Draw(timesteps.to(latents.device, non_blocking=True), noise.to(latents.device, non_blocking=True))

    def timesteps_at(self, fractions: Tensor, shape: torch.Size) -> Tensor:
        """int64: ⌊fraction · T⌋, for every shape."""
        return (fractions * self.num_timesteps).floor().long()

    def corrupt(self, latents: Tensor, draw: Draw) -> Tensor:
        signal, noise = self._scales(draw.timesteps)
        return signal * latents + noise * draw.noise

    def target(self, latents: Tensor, draw: Draw) -> Tensor:
        if self.prediction_type == "epsilon":
            return draw.noise
        signal, noise = self._scales(draw.timesteps)
        return signal * draw.noise - noise * latents

    def to_x0(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        signal, noise = self._scales(timesteps)
        if self.prediction_type == "epsilon":
            return (noised - noise * prediction) / signal
        return signal * noised - noise * prediction

    def to_noise(self, noised: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return prediction
        signal, noise = self._scales(timesteps)
        return signal * prediction + noise * noised

    def snr(self, timesteps: Tensor) -> Tensor:
        """ᾱ / (1 - ᾱ): (B,)."""
        alphas = self._alphas_on(timesteps.device)[timesteps]
        return alphas / (1 - alphas)

    def _scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self._alphas_on(timesteps.device)[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()

    def _alphas_on(self, device: torch.device) -> Tensor:
        """ᾱ on a device, copied once: a copy within a step would wait for all queued operations."""
        if device not in self._placed:
            self._placed[device] = self.alphas_cumprod.to(device)
        return self._placed[device]
