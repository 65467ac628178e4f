"""Mean squared denoising error with timestep weighting."""

from dataclasses import dataclass

from torch import Tensor

from trainer.losses.denoising import difference, weighted_mean
from trainer.losses.term import StepContext
from trainer.losses.weighting import TimestepWeighting, Weighting


@dataclass(frozen=True)
class MeanSquaredError:
    """mean over B of weight · w(t) · masked mean((prediction - target)²)."""

    weighting: Weighting = "uniform"
    min_snr_gamma: float = 5.0
    mask_floor: float = 0.1
    name: str = "mse"

    def __call__(self, context: StepContext) -> Tensor:
        weighting = TimestepWeighting(self.weighting, self.min_snr_gamma)
        return weighted_mean(difference(context).square(), context, weighting, self.mask_floor)
