"""Mean squared denoising error whose timestep weights are learned from the errors themselves."""

from dataclasses import dataclass, field

import torch
from accelerate.utils import reduce
from torch import Tensor

from trainer.losses.denoising import difference, floored
from trainer.losses.masked_mean import masked_mean
from trainer.losses.term import StepContext

BUCKETS, FURTHEST = 32, 10.0
"""Number of ranges of log SNR from -10 to 10; the outer ones include values beyond."""
DECAY = 0.99
"""Decay of a range's mean error, for each image in it."""
SMALLEST = 1e-7


@dataclass
class AdaptiveMeanSquaredError:
    """mean over B of weight · masked mean((prediction - target)²) / L(t), as Stable Cascade's adaptive weights.

    L(t) is the mean error of images with about the same noise (32 ranges of log SNR), so that all noise levels have
    equal weight; 1 before the first image of a range. Unlike in the original, a mean starts with the first error
    instead of 1, and all images of a range are included. The means change after a step, from the images of all
    processes. Implements `LossTerm` and `trainer.losses.term.LearnsInSteps`.
    """

    mask_floor: float = 0.1
    name: str = "mse"
    _means: Tensor = field(default_factory=lambda: torch.zeros(2, BUCKETS))
    """Decayed sums of the errors and of 1: their quotient is the mean."""
    _step: Tensor = field(default_factory=lambda: torch.zeros(2, BUCKETS))
    """Sum of the errors and number of images in this step."""

    def __call__(self, context: StepContext) -> Tensor:
        errors = masked_mean(difference(context).square(), floored(context.masks, self.mask_floor))
        log_snr = context.noise_process.snr(context.draw.timesteps).log()
        inner = torch.linspace(-FURTHEST, FURTHEST, BUCKETS - 1, device=log_snr.device)
        buckets = torch.bucketize(log_snr.float(), inner)
        self._to(errors.device)
        seen = torch.stack([errors.detach(), torch.ones_like(errors)])
        self._step.index_add_(1, buckets, seen)
        return (errors / self.expected[buckets] * context.weights).mean()

    @property
    def expected(self) -> Tensor:
        """L of each bucket: (32,)."""
        errors, counts = self._means
        return torch.where(counts > 0, (errors / counts.clamp(min=SMALLEST)).clamp(min=SMALLEST), 1.0)

    def end_step(self) -> None:
        """Add the step's errors to the means. All processes must call it."""
        errors, counts = reduce(self._step, reduction="sum")
        kept = DECAY**counts
        of_step = torch.stack([errors / counts.clamp(min=1), torch.ones_like(counts)])
        self._means = kept * self._means + (1 - kept) * of_step
        self.forget_step()

    def forget_step(self) -> None:
        self._step = torch.zeros_like(self._step)

    def state_dict(self) -> dict[str, Tensor]:
        return {"means": self._means.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._means = state["means"].to(self._means)

    def _to(self, device: torch.device) -> None:
        self._means, self._step = self._means.to(device), self._step.to(device)
