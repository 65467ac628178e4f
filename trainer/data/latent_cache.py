"""Computes latent moments and masks of every view once, before training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from families.family import ModelFamily, SizeConditioning
from preprocess.crops.crop import Crop
from preprocess.dataset import Example, PreparedDataset, View


@dataclass(frozen=True)
class CachedView:
    """On the training device. `moments`: (X, h, w), as `encode_image` returns them.

    `mask`: (1, h, w), 0 to 1; None: the loss counts everywhere.
    """

    moments: Tensor
    mask: Tensor | None
    size: SizeConditioning

    def load(self) -> "CachedView":
        """It is here already."""
        return self


class LoadableView(Protocol):
    """A view in memory, or one on disk (`trainer.data.latent_store`)."""

    @property
    def size(self) -> SizeConditioning: ...

    def load(self) -> CachedView: ...


@dataclass(frozen=True)
class CachedExample:
    """One image with all its views, of one bucket. `caption`: with the trigger word as the user knows it.

    Of `caption` and `other_captions` one is drawn each time.
    """

    views: tuple[LoadableView, ...]
    caption: str
    concept: str | None
    bucket: tuple[int, int]
    repeats: int
    weight: float
    other_captions: tuple[str, ...] = ()


def cache_examples(dataset: PreparedDataset, family: ModelFamily) -> Iterator[CachedExample]:
    """Encode the images one by one."""
    for example in dataset.examples:
        views = tuple(encode_view(dataset.folder, view, family) for view in example.views)
        yield CachedExample(
            views, example.caption, example.concept, example.bucket, example.repeats, example.weight,
            example.other_captions,
        )  # fmt: skip


def count_views(examples: tuple[Example, ...]) -> int:
    """How many pictures will be encoded."""
    return sum(len(example.views) for example in examples)


@torch.no_grad()
def encode_view(folder: Path, view: View, family: ModelFamily) -> CachedView:
    """The moments of one view's latents, and its mask."""
    with Image.open(folder / view.file) as image:
        pixels = to_pixels(image.convert("RGB")).unsqueeze(0).to(family.device)
    moments = family.encode_image(pixels)[0]
    mask = None
    if view.mask:
        with Image.open(folder / view.mask) as image:
            mask = to_latent_mask(image.convert("L"), moments.shape[-2:]).to(family.device)
    return CachedView(moments, mask, size_conditioning(view.crop))


def to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1.0


def to_latent_mask(mask: Image.Image, size: torch.Size) -> Tensor:
    """(1, h, w) in [0, 1]: each latent pixel takes the mean of the picture's pixels that it stands for."""
    values = torch.from_numpy(np.asarray(mask).copy()).float().view(1, 1, mask.height, mask.width) / 255
    return functional.interpolate(values, size=size, mode="area")[0]


def size_conditioning(crop: Crop) -> SizeConditioning:
    """SDXL's (height, width) triples from the crop's (width, height) pairs: the truth, never a claim."""
    return SizeConditioning(crop.original[::-1], crop.corner[::-1], crop.target[::-1])
