"""What never changes during training is computed once: the moments of every image's latents."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from families.family import ModelFamily, SizeConditioning
from preprocess.dataset import Example, PreparedDataset


@dataclass(frozen=True)
class CachedImage:
    """`moments`: (2C, h, w), on the training device. `caption`: with the trigger word as the user knows it."""

    moments: Tensor
    caption: str
    size: SizeConditioning


@dataclass(frozen=True)
class LatentBatch:
    """A micro-batch. `moments`: (B, 2C, h, w)."""

    moments: Tensor
    captions: list[str]
    sizes: list[SizeConditioning]


@torch.no_grad()
def cache_images(dataset: PreparedDataset, family: ModelFamily) -> Iterator[CachedImage]:
    """Encode the images one by one."""
    for example in dataset.examples:
        with Image.open(dataset.folder / example.file) as image:
            pixels = to_pixels(image.convert("RGB")).unsqueeze(0).to(family.device)
        yield CachedImage(family.encode_image(pixels)[0], example.caption, size_conditioning(example))


def to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1.0


def size_conditioning(example: Example) -> SizeConditioning:
    """SDXL's (height, width) triples from the crop's (width, height) pairs: the truth, never a claim."""
    crop = example.crop
    return SizeConditioning(crop.original[::-1], crop.corner[::-1], crop.target[::-1])


def endless_batches(images: list[CachedImage], batch_size: int, generator: torch.Generator) -> Iterator[LatentBatch]:
    """Batches for ever: every image once an epoch in a new order; epochs follow each other without leftovers."""

    def indices() -> Iterator[int]:
        while True:
            yield from torch.randperm(len(images), generator=generator).tolist()

    order = indices()
    while True:
        picked = [images[next(order)] for _ in range(batch_size)]
        yield LatentBatch(
            torch.stack([image.moments for image in picked]),
            [image.caption for image in picked],
            [image.size for image in picked],
        )
