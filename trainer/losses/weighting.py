"""Timestep weights of the denoising loss."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from families.noise.noise_process import NoiseProcess

Weighting = Literal["uniform", "min_snr", "soft_min_snr", "debiased"]


@dataclass(frozen=True)
class TimestepWeighting:
    """A factor w for each timestep, from its signal-to-noise ratio.

    uniform: 1.
    min_snr (Hang et al. 2023, §3.4): min(SNR, γ) / SNR for ε-prediction, min(SNR, γ) / (SNR + 1) for v-prediction.
    soft_min_snr (Crowson et al. 2024): a smooth variant with SNR·γ / (SNR + γ) in place of min(SNR, γ).
    debiased (Yu et al. 2023, eq. 13): 1 / √SNR, for ε-prediction. High noise, where colours are decided, counts more.
    """

    kind: Weighting = "uniform"
    gamma: float = 5.0

    def __call__(self, process: NoiseProcess, timesteps: Tensor) -> Tensor | float:
        """Return weights (B,) for timesteps (B,)."""
        if self.kind == "uniform":
            return 1.0
        snr = process.snr(timesteps)
        if self.kind == "debiased":
            return snr.rsqrt()
        epsilon = process.prediction_type == "epsilon"
        if self.kind == "min_snr":
            return snr.clamp(max=self.gamma) / (snr if epsilon else snr + 1)
        soft = self.gamma / (snr + self.gamma)  # for ε, with SNR cancelled to avoid 0 / 0
        return soft if epsilon else soft * snr / (snr + 1)
