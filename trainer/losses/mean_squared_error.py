"""The denoising loss, each timestep weighted as it deserves."""

from dataclasses import dataclass

from torch import Tensor

from trainer.losses.term import StepContext


@dataclass(frozen=True)
class MeanSquaredError:
    """mean over B of w(t) · mean((prediction - target)²).

    Min-SNR weighting (Hang et al. 2023, §3.4): w = min(SNR, γ) / SNR when ε is predicted, min(SNR, γ) / (SNR + 1)
    when v is. `min_snr_gamma` None: w = 1.
    """

    min_snr_gamma: float | None = None
    name: str = "mse"

    def __call__(self, context: StepContext) -> Tensor:
        target = context.noise_process.target(context.latents, context.draw)
        error = (context.prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
        return (error * self._weights(context)).mean()

    def _weights(self, context: StepContext) -> Tensor | float:
        if self.min_snr_gamma is None:
            return 1.0
        snr = context.noise_process.snr(context.draw.timesteps)
        divisor = snr if context.noise_process.prediction_type == "epsilon" else snr + 1
        return snr.clamp(max=self.min_snr_gamma) / divisor
