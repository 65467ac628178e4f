"""Tests that the loss of a step is the mean over its images, for any division into batches."""

from itertools import islice

import pytest
import torch

from tests.trainer.data.test_batches import examples, generator
from trainer.data.batches import BatchStream, LatentBatch, batches_an_epoch
from trainer.execution.accumulation import Accumulation
from trainer.execution.gradient_checkpointing import GradientCheckpointing
from trainer.losses.term import OF_IMAGES
from trainer.randomness import NamedGenerators

WIDE, TALL, SQUARE = (96, 48), (48, 96), (64, 64)
LOSSES = {WIDE: 1.0, TALL: 10.0, SQUARE: 100.0}
BUCKETS = [WIDE] * 5 + [TALL] + [SQUARE] * 2
MEAN = sum(LOSSES[bucket] for bucket in BUCKETS) / len(BUCKETS)


def loss_of(batch: LatentBatch) -> torch.Tensor:
    return torch.tensor([LOSSES[BUCKETS[int(caption)]] for caption in batch.captions]).mean()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
def test_over_an_epoch_it_is_the_mean_over_all_images(batch_size: int, parts: int) -> None:
    """Images have three sizes, so most batches are filled up: a batch of 8 has the only tall image eight times."""
    data = examples(BUCKETS)
    stream = BatchStream(data, batch_size, generator(), generator(1))
    accumulation = Accumulation(NamedGenerators(0), [], GradientCheckpointing([], "never"), parts=parts)
    gradient = torch.zeros(())

    def backward(batch: LatentBatch, share: float) -> dict[str, torch.Tensor]:
        nonlocal gradient
        gradient = gradient + share * batch.filling * loss_of(batch)
        return {name: loss_of(batch) for name in OF_IMAGES} | {"token_norm": torch.tensor(3.0)}

    count = batches_an_epoch(data, batch_size)
    losses = accumulation.run(list(islice(stream, count)), backward)
    for name in OF_IMAGES:
        assert float(losses[name]) == pytest.approx(MEAN)
    assert float(losses["token_norm"]) == pytest.approx(3.0)
    slots = count * batch_size
    assert float(gradient) == pytest.approx(MEAN * len(BUCKETS) / slots)  # every image counts once


def test_without_filled_batches_the_digits_are_those_of_a_plain_mean() -> None:
    losses = torch.rand(3, generator=generator())
    batches = list(islice(BatchStream(examples([SQUARE] * 6), 2, generator(), generator(1)), 3))
    accumulation = Accumulation(NamedGenerators(0), [], GradientCheckpointing([], "never"))
    values = iter(losses)
    found = accumulation.run(batches, lambda batch, share: {"mse": next(values)})
    assert torch.equal(found["mse"], losses[0] * (2 / 6) + losses[1] * (2 / 6) + losses[2] * (2 / 6))
