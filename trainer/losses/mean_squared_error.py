"""The denoising loss, each timestep weighted as it deserves."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainer.losses.term import StepContext

Weighting = Literal["uniform", "min_snr", "debiased"]


@dataclass(frozen=True)
class MeanSquaredError:
    """mean over B of w(t) · mean((prediction - target)²).

    uniform: w = 1.
    min_snr (Hang et al. 2023, §3.4): w = min(SNR, γ) / SNR when ε is predicted, min(SNR, γ) / (SNR + 1) when v is.
    debiased (Yu et al. 2023, eq. 13): w = 1 / √SNR, for ε; high noise, where colours are decided, counts more.
    """

    weighting: Weighting = "uniform"
    min_snr_gamma: float = 5.0
    name: str = "mse"

    def __call__(self, context: StepContext) -> Tensor:
        target = context.noise_process.target(context.latents, context.draw)
        error = (context.prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
        return (error * self._weights(context)).mean()

    def _weights(self, context: StepContext) -> Tensor | float:
        if self.weighting == "uniform":
            return 1.0
        snr = context.noise_process.snr(context.draw.timesteps)
        if self.weighting == "debiased":
            return snr.rsqrt()
        divisor = snr if context.noise_process.prediction_type == "epsilon" else snr + 1
        return snr.clamp(max=self.min_snr_gamma) / divisor
