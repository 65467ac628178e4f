"""Plans and assembles micro-batches: full batches of one bucket, with every image in every epoch.

The last batch of a bucket is filled up with other images of that bucket. The weights of all images of the bucket are
then reduced a little, so that over an epoch each image has the weight of its repeats, in every bucket.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from families.family import Conditioning, SizeConditioning
from trainer.data.latent_cache import CachedExample, CachedView, LoadableView
from trainer.distributed.batch_share import WHOLE, Share


@dataclass(frozen=True)
class LatentBatch:
    """A micro-batch. `moments`: (B, X, h, w), as `encode_image` returns them. `masks`: (B, 1, h, w), None without any.
    `weights`: (B,). `filling`: factor by which the weights of its images are reduced, because some images fill it
    up."""

    moments: Tensor
    captions: list[str]
    concepts: list[str | None]
    sizes: list[SizeConditioning]
    masks: Tensor | None
    weights: Tensor
    conditioning: Conditioning | None = None
    """Images that are additional inputs of the denoiser."""
    filling: float = 1.0
    controls: Tensor | None = None
    """The condition of a ControlNet: images uint8 (B, 3 or 4, H, W), or faces (B, N, 4 + P)."""

    def split(self, parts: int) -> "list[LatentBatch]":
        """Split into at most `parts` batches of nearly equal size, none of them empty."""
        size = -(-len(self.captions) // parts)
        bounds = [(start, start + size) for start in range(0, len(self.captions), size)]
        return [
            LatentBatch(
                self.moments[first:last],
                self.captions[first:last],
                self.concepts[first:last],
                self.sizes[first:last],
                None if self.masks is None else self.masks[first:last],
                self.weights[first:last],
                None if self.conditioning is None else self.conditioning.rows(first, last),
                self.filling,
                None if self.controls is None else self.controls[first:last],
            )
            for first, last in bounds
        ]


@dataclass(frozen=True)
class PlannedBatch:
    """Image indices of a batch, and a factor for their weights that compensates for filled-up batches."""

    indices: tuple[int, ...]
    weight: float


class BatchStream(Iterator[LatentBatch]):
    """Endless stream of batches, epoch after epoch.

    `order` draws the order of the images, `augmentation` the view of each image, `captions` the caption of images with
    several captions (None: the first one). `batch_size` is that of this process. All processes plan the same global
    batches, and each takes its share of every one. The position is the state of `order` before the epoch and the number
    of batches taken from the epoch.
    """

    def __init__(
        self,
        examples: Sequence[CachedExample],
        batch_size: int,
        order: Generator,
        augmentation: Generator,
        share: Share = WHOLE,
        captions: Generator | None = None,
    ) -> None:
        self._captions = captions
        self._examples, self._batch_size, self._share = examples, batch_size * share.count, share
        self._order, self._augmentation = order, augmentation
        self._plan: list[PlannedBatch] = []
        self._taken = 0
        self._epoch_start = order.get_state()

    @property
    def examples(self) -> Sequence[CachedExample]:
        """The examples of which the batches consist."""
        return self._examples

    @property
    def batches_an_epoch(self) -> int:
        """Number of micro-batches per pass over all images."""
        return batches_an_epoch(self._examples, self._batch_size)

    def __next__(self) -> LatentBatch:
        if self._taken == len(self._plan):
            self._begin_epoch()
        planned = self._plan[self._taken]
        self._taken += 1
        return _assemble(self._examples, planned, self._augmentation, self._share, self._captions)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data."""
        return {"epoch_start": self._epoch_start, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position by planning the same epoch again."""
        self._order.set_state(state["epoch_start"])
        self._begin_epoch()
        self._taken = state["taken"]

    def _begin_epoch(self) -> None:
        self._epoch_start = self._order.get_state()
        self._plan = plan_epoch(self._examples, self._batch_size, self._order)
        self._taken = 0


def plan_epoch(examples: Sequence[CachedExample], batch_size: int, order: Generator) -> list[PlannedBatch]:
    """Plan one epoch in a new order: every image `repeats` times, in full batches of one bucket."""
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


def batches_an_epoch(examples: Sequence[CachedExample], batch_size: int) -> int:
    """Return the number of micro-batches in an epoch."""
    return sum(-(-len(members) // batch_size) for members in _buckets(examples).values())


def _buckets(examples: Sequence[CachedExample]) -> dict[tuple[int, int], list[int]]:
    """Return the image indices by bucket. Each index occurs as often as the image is repeated."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, example in enumerate(examples):
        buckets.setdefault(example.bucket, []).extend([index] * example.repeats)
    return buckets


def _assemble(
    examples: Sequence[CachedExample],
    planned: PlannedBatch,
    augmentation: Generator,
    share: Share,
    captions: Generator | None,
) -> LatentBatch:
    whole = [examples[index] for index in planned.indices]
    drawn = [_draw_view(example, augmentation) for example in whole]
    texts = [_draw_caption(example, captions) for example in whole]
    picked, views = share.of(whole), [view.load() for view in share.of(drawn)]
    moments = torch.stack([view.moments for view in views])
    weights = torch.tensor([example.weight for example in picked])
    return LatentBatch(
        moments,
        share.of(texts),
        [example.concept for example in picked],
        [view.size for view in views],
        _stack_masks(views),
        weights.to(moments.device, non_blocking=True),
        filling=planned.weight,
        controls=_stack_controls(views),
    )


def _draw_view(example: CachedExample, augmentation: Generator) -> LoadableView:
    if len(example.views) == 1:
        return example.views[0]
    return example.views[int(torch.randint(len(example.views), (), generator=augmentation))]


def _draw_caption(example: CachedExample, captions: Generator | None) -> str:
    """Draw one of the captions. No random number is used for an image with a single caption."""
    if captions is None or not example.other_captions:
        return example.caption
    texts = (example.caption, *example.other_captions)
    return texts[int(torch.randint(len(texts), (), generator=captions))]


def _stack_controls(views: Sequence[CachedView]) -> Tensor | None:
    """The conditions of a batch; None without a ControlNet. Either all views have one, or none has."""
    controls = [view.control for view in views if view.control is not None]
    return torch.stack(controls) if controls else None


def _stack_masks(views: Sequence[CachedView]) -> Tensor | None:
    if all(view.mask is None for view in views):
        return None
    whole = torch.ones_like(views[0].moments[:1])
    return torch.stack([whole if view.mask is None else view.mask for view in views])
