"""Which images make up each micro-batch: full batches of one size, every image in every epoch.

What is left over in a bucket is filled up with other images of the bucket. All of a bucket's images then count a
little less, so that over an epoch each image has the weight that its repeats give it, whatever bucket it is in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from families.family import SizeConditioning
from trainer.cache import CachedExample, CachedView


@dataclass(frozen=True)
class LatentBatch:
    """A micro-batch. `moments`: (B, 2C, h, w). `masks`: (B, 1, h, w), or None without any. `weights`: (B,)."""

    moments: Tensor
    captions: list[str]
    concepts: list[str | None]
    sizes: list[SizeConditioning]
    masks: Tensor | None
    weights: Tensor


@dataclass(frozen=True)
class PlannedBatch:
    """Indices of the images, and the factor of their weights that makes up for filling."""

    indices: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Share:
    """Which part of the batches this process takes: every `count`-th from `index` on."""

    index: int = 0
    count: int = 1


def endless_batches(
    examples: Sequence[CachedExample],
    batch_size: int,
    order: Generator,
    augmentation: Generator,
    share: Share = Share(),
) -> Iterator[LatentBatch]:
    """Batches for ever, epoch after epoch. `order` draws the order, `augmentation` the view of each image."""
    while True:
        for planned in take_share(plan_epoch(examples, batch_size, order), share):
            yield _assemble(examples, planned, augmentation)


def plan_epoch(examples: Sequence[CachedExample], batch_size: int, order: Generator) -> list[PlannedBatch]:
    """One epoch in a new order: every image `repeats` times, in batches that are full and of one bucket."""
    batches: list[PlannedBatch] = []
    for members in _buckets(examples).values():
        drawn = [members[index] for index in torch.randperm(len(members), generator=order).tolist()]
        missing = -len(drawn) % batch_size
        filling = torch.randint(len(members), (missing,), generator=order).tolist()
        filled = [*drawn, *(members[index] for index in filling)]
        weight = len(drawn) / len(filled)
        batches += [
            PlannedBatch(tuple(filled[start : start + batch_size]), weight)
            for start in range(0, len(filled), batch_size)
        ]
    return [batches[index] for index in torch.randperm(len(batches), generator=order).tolist()]


def take_share(batches: Sequence[PlannedBatch], share: Share) -> list[PlannedBatch]:
    """This process's batches: as many as every other process has, for which the first few may come twice."""
    missing = -len(batches) % share.count
    padded = [*batches, *(batches[index % len(batches)] for index in range(missing))]
    return padded[share.index :: share.count]


def _buckets(examples: Sequence[CachedExample]) -> dict[tuple[int, int], list[int]]:
    """Indices by bucket, each as often as its repeats."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, example in enumerate(examples):
        buckets.setdefault(example.bucket, []).extend([index] * example.repeats)
    return buckets


def _assemble(examples: Sequence[CachedExample], planned: PlannedBatch, augmentation: Generator) -> LatentBatch:
    picked = [examples[index] for index in planned.indices]
    views = [_draw_view(example, augmentation) for example in picked]
    moments = torch.stack([view.moments for view in views])
    weights = torch.tensor([example.weight * planned.weight for example in picked], device=moments.device)
    return LatentBatch(
        moments,
        [example.caption for example in picked],
        [example.concept for example in picked],
        [view.size for view in views],
        _stack_masks(views),
        weights,
    )


def _draw_view(example: CachedExample, augmentation: Generator) -> CachedView:
    if len(example.views) == 1:
        return example.views[0]
    return example.views[int(torch.randint(len(example.views), (), generator=augmentation))]


def _stack_masks(views: Sequence[CachedView]) -> Tensor | None:
    if all(view.mask is None for view in views):
        return None
    whole = torch.ones_like(views[0].moments[:1])
    return torch.stack([whole if view.mask is None else view.mask for view in views])
