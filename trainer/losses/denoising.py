"""Weighting of the denoising error by mask, timestep and image."""

from torch import Tensor

from trainer.losses.masked_mean import masked_mean
from trainer.losses.term import StepContext
from trainer.losses.weighting import TimestepWeighting


def difference(context: StepContext) -> Tensor:
    """Prediction minus target, fp32: (B, C, h, w)."""
    target = context.noise_process.target(context.latents, context.draw)
    return context.prediction.float() - target.float()


def weighted_mean(error: Tensor, context: StepContext, weighting: TimestepWeighting, mask_floor: float) -> Tensor:
    """mean over B of weight · w(t) · masked mean of `error` (B, C, h, w): ().

    A mask m is used as floor + (1 - floor)·m. With a floor of 0, the background would not be trained and could degrade.
    """
    return weighted(masked_mean(error, floored(context.masks, mask_floor)), context, weighting)


def floored(masks: Tensor | None, floor: float) -> Tensor | None:
    """The weight of each position: (B, 1, h, w)."""
    return None if masks is None else floor + (1 - floor) * masks


def weighted(errors: Tensor, context: StepContext, weighting: TimestepWeighting) -> Tensor:
    """The mean of the images' errors (B,), by timestep and weight: ()."""
    weights = weighting(context.noise_process, context.draw.timesteps)
    return (errors * weights * context.weights).mean()
