"""Timestep weights of the denoising loss."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from families.noise.noise_process import NoiseProcess

Weighting = Literal["uniform", "min_snr", "soft_min_snr", "debiased", "p2", "edm"]


@dataclass(frozen=True)
class TimestepWeighting:
    """A factor w for each timestep, from its signal-to-noise ratio.

    uniform: 1. min_snr (Hang et al. 2023, §3.4): min(SNR, γ) / SNR for ε-prediction, min(SNR, γ) / (SNR + 1) for
    v-prediction. soft_min_snr (Crowson et al. 2024): a smooth variant with SNR·γ / (SNR + γ) in place of min(SNR, γ).
    p2 (Choi et al. 2022, eq. 8, k = 1): (1 + SNR)^-γ for ε-prediction. Timesteps with little noise have less weight.
    edm (Karras et al. 2022, table 1, for latents of deviation 1): (σ² + 1) / σ² in the error of x_0, with σ² = 1 / SNR:
    1 + 1 / SNR in that of ε, and 1 in that of v. debiased (Yu et al. 2023, eq. 13): 1 / √SNR, for ε-prediction. High
    noise, which determines colours, has more weight.
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
        if self.kind == "p2":
            return (1 + snr) ** -self.gamma * of_epsilon(process, timesteps)
        epsilon = process.prediction_type == "epsilon"
        if self.kind == "edm":
            return 1 + 1 / snr if epsilon else torch.ones_like(snr)
        if self.kind == "min_snr":
            return snr.clamp(max=self.gamma) / (snr if epsilon else snr + 1)
        soft = self.gamma / (snr + self.gamma)  # for ε, with SNR cancelled to avoid 0 / 0
        return soft if epsilon else soft * snr / (snr + 1)


def of_epsilon(process: NoiseProcess, timesteps: Tensor) -> Tensor:
    """(B,): the squared error of ε divided by the squared error of the model's target, for the same x_0.

    An error δ of x_0 is √SNR · δ in ε, √(SNR + 1) · δ in v (Salimans & Ho 2022, §4), and δ / σ in a flow's velocity.
    """
    snr = process.snr(timesteps)
    if process.prediction_type == "epsilon":
        return torch.ones_like(snr)
    if process.prediction_type in ("v_prediction", "edm"):
        return snr / (snr + 1)
    return (1 + snr.rsqrt()) ** -2  # (1 - σ)², as √SNR = (1 - σ) / σ
