"""Tests of the loss with masks and weights, against its formula in plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from families.family import SizeConditioning
from families.noise.diffusion_process import DiffusionProcess
from families.noise.noise_process import Draw, PredictionType
from trainer.losses.masked_mean import masked_mean
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.term import StepContext
from trainer.losses.weighting import Weighting

ALPHAS = torch.linspace(0.99, 0.01, 50)
SIZE = SizeConditioning((64, 64), (0, 0), (64, 64))


def context(
    seed: int = 0,
    *,
    batch: int = 3,
    channels: int = 4,
    height: int = 5,
    width: int = 6,
    prediction_type: PredictionType = "epsilon",
    masks: Tensor | None = None,
    weights: Tensor | None = None,
) -> StepContext:
    """Returns a step of random latents, whose prediction requires a gradient."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    latents, noise, prediction = (torch.randn(shape, generator=generator) for _ in range(3))
    timesteps = torch.randint(0, len(ALPHAS), (batch,), generator=generator)
    process, draw = DiffusionProcess(ALPHAS, prediction_type), Draw(timesteps, noise)
    return StepContext(
        ["a TOK"] * batch,
        [SIZE] * batch,
        latents,
        draw,
        process.corrupt(latents, draw),
        prediction.requires_grad_(),
        process,
        masks,
        torch.ones(batch) if weights is None else weights,
    )


def random_masks(seed: int = 1, batch: int = 3, height: int = 5, width: int = 6) -> Tensor:
    return torch.rand((batch, 1, height, width), generator=torch.Generator().manual_seed(seed))


def by_hand(step: StepContext, weighting: Weighting, gamma: float, floor: float) -> float:
    """Returns the mean over images of weight · w(t) · Σ m·(prediction - target)² / (C · Σ m), number by number."""
    total = 0.0
    predictions = step.prediction.detach()
    batch, channels, height, width = step.latents.shape
    for image in range(batch):
        alpha = float(ALPHAS[step.draw.timesteps[image]])
        error = marked = 0.0
        for row in range(height):
            for column in range(width):
                mask = 1.0 if step.masks is None else float(step.masks[image, 0, row, column])
                mask = 1.0 if step.masks is None else floor + (1 - floor) * mask
                marked += mask
                for channel in range(channels):
                    place = (image, channel, row, column)
                    noise, clean = float(step.draw.noise[place]), float(step.latents[place])
                    velocity = math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * clean
                    target = noise if step.noise_process.prediction_type == "epsilon" else velocity
                    error += mask * (float(predictions[place]) - target) ** 2
        snr = alpha / (1 - alpha)
        divisor = snr if step.noise_process.prediction_type == "epsilon" else snr + 1
        factor = {"uniform": 1.0, "min_snr": min(snr, gamma) / divisor, "debiased": snr**-0.5}[weighting]
        total += float(step.weights[image]) * factor * error / (channels * marked)
    return total / batch


@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "debiased"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_the_formula(weighting: Weighting, prediction_type: PredictionType, floor: float) -> None:
    weights = torch.tensor([1.0, 0.25, 3.0])
    step = context(prediction_type=prediction_type, masks=random_masks(), weights=weights)
    loss = MeanSquaredError(weighting, 2.0, floor)(step)
    assert loss.item() == pytest.approx(by_hand(step, weighting, 2.0, floor), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.floats(0, 1))
def test_the_formula_at_any_shape(seed: int, batch: int, height: int, width: int, floor: float) -> None:
    masks = random_masks(seed, batch, height, width)
    step = context(seed, batch=batch, height=height, width=width, masks=masks)
    loss = MeanSquaredError("min_snr", 5.0, floor)(step)
    assert loss.item() == pytest.approx(by_hand(step, "min_snr", 5.0, floor), rel=1e-4)


def test_without_masks_it_is_the_plain_mean() -> None:
    step = context()
    plain = (step.prediction - step.draw.noise).square().mean()
    assert MeanSquaredError("uniform", mask_floor=0.0)(step).item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("masks", [torch.ones(3, 1, 5, 6), torch.full((3, 1, 5, 6), 0.4)])
def test_a_mask_that_is_the_same_everywhere_changes_nothing(masks: Tensor) -> None:
    masked, plain = context(masks=masks), context()
    for floor in (0.0, 0.3, 1.0):
        loss = MeanSquaredError(mask_floor=floor)
        assert loss(masked).item() == pytest.approx(loss(plain).item(), rel=1e-5)


def test_a_floor_of_one_is_no_mask() -> None:
    loss = MeanSquaredError(mask_floor=1.0)
    assert loss(context(masks=random_masks())).item() == pytest.approx(loss(context()).item(), rel=1e-6)


def test_a_small_subject_counts_as_much_as_a_large_one() -> None:
    error = torch.ones(2, 4, 8, 8)
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, :, :1, :1] = 1
    masks[1, :, :7, :7] = 1
    assert masked_mean(error, masks).tolist() == pytest.approx([1, 1])


def test_the_gradient_is_zero_where_mask_and_floor_are_zero() -> None:
    masks = torch.zeros(3, 1, 5, 6)
    masks[:, :, 1:3, 2:5] = 0.7
    step = context(masks=masks)
    MeanSquaredError("uniform", mask_floor=0.0)(step).backward()
    gradient = step.prediction.grad
    assert gradient is not None
    outside = (masks == 0).expand_as(gradient)
    assert gradient[outside].abs().max() == 0
    assert gradient[~outside].abs().min() > 0


def test_with_a_floor_every_place_is_trained_and_the_subject_more() -> None:
    masks = torch.zeros(3, 1, 5, 6)
    masks[:, :, 1:3, 2:5] = 1
    step = context(masks=masks)
    MeanSquaredError("uniform", mask_floor=0.1)(step).backward()
    gradient = step.prediction.grad
    assert gradient is not None
    by_error = gradient / (step.prediction.detach() - step.draw.noise)
    inside = masks.bool().expand_as(gradient)
    assert by_error[~inside].min() > 0
    assert by_error[inside].min() / by_error[~inside].max() == pytest.approx(10, rel=1e-4)


def test_an_image_whose_mask_is_black_everywhere_is_not_trained_and_spoils_nothing() -> None:
    """With mask_floor: 0, this occurs if a face is outside the crop, or crop_jitter has cut off the subject."""
    masks = random_masks()
    masks[1] = 0
    step = context(masks=masks)
    loss = MeanSquaredError("uniform", mask_floor=0.0)(step)
    loss.backward()
    others = masked_mean((step.prediction - step.draw.noise).square(), masks)[[0, 2]].sum() / 3
    gradient = step.prediction.grad
    assert gradient is not None and torch.isfinite(gradient).all()
    assert loss.item() == pytest.approx(others.item(), rel=1e-5)
    assert gradient[1].abs().max() == 0 and gradient[0].abs().max() > 0


def test_weights_are_those_of_the_images() -> None:
    weights = torch.tensor([0.5, 0.0, 2.0])
    step = context(weights=weights, masks=random_masks())
    loss = MeanSquaredError("uniform", mask_floor=0.2)(step)
    each = masked_mean((step.prediction - step.draw.noise).square(), 0.2 + 0.8 * random_masks())
    assert loss.item() == pytest.approx((each * weights).mean().item(), rel=1e-5)
    loss.backward()
    gradient = step.prediction.grad
    assert gradient is not None and gradient[1].abs().max() == 0


def test_a_heavier_image_pulls_that_much_more() -> None:
    light, heavy = context(batch=1, weights=torch.tensor([1.0])), context(batch=1, weights=torch.tensor([4.0]))
    for step in (light, heavy):
        MeanSquaredError()(step).backward()
    assert light.prediction.grad is not None and heavy.prediction.grad is not None
    assert torch.allclose(heavy.prediction.grad, 4 * light.prediction.grad)


def test_half_precision_predictions_are_compared_in_full() -> None:
    step = context(masks=random_masks())
    exact = MeanSquaredError("uniform")(step)
    half = StepContext(**{**vars(step), "prediction": step.prediction.detach().bfloat16()})
    loss = MeanSquaredError("uniform")(half)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
