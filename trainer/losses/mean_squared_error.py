"""The denoising loss, each timestep weighted as it deserves."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainer.losses.masked_mean import masked_mean
from trainer.losses.term import StepContext

Weighting = Literal["uniform", "min_snr", "debiased"]


@dataclass(frozen=True)
class MeanSquaredError:
    """mean over B of weight · w(t) · masked mean((prediction - target)²).

    A mask m counts as floor + (1 - floor)·m: with a floor of 0 what lies around the subject becomes garbage.

    uniform: w = 1.
    min_snr (Hang et al. 2023, §3.4): w = min(SNR, γ) / SNR when ε is predicted, min(SNR, γ) / (SNR + 1) when v is.
    debiased (Yu et al. 2023, eq. 13): w = 1 / √SNR, for ε; high noise, where colours are decided, counts more.
    """

    weighting: Weighting = "uniform"
    min_snr_gamma: float = 5.0
    mask_floor: float = 0.1
    name: str = "mse"

    def __call__(self, context: StepContext) -> Tensor:
        target = context.noise_process.target(context.latents, context.draw)
        error = (context.prediction.float() - target.float()).square()
        masks = None if context.masks is None else self.mask_floor + (1 - self.mask_floor) * context.masks
        return (masked_mean(error, masks) * self._weights(context) * context.weights).mean()

    def _weights(self, context: StepContext) -> Tensor | float:
        if self.weighting == "uniform":
            return 1.0
        snr = context.noise_process.snr(context.draw.timesteps)
        if self.weighting == "debiased":
            return snr.rsqrt()
        divisor = snr if context.noise_process.prediction_type == "epsilon" else snr + 1
        return snr.clamp(max=self.min_snr_gamma) / divisor
