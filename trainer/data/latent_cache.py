"""Computes the latent moments and masks of every view once, before training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from families.conditioning import embeds_pictures
from families.family import ModelFamily, SizeConditioning, restoring
from preprocess.control.faces import read_faces
from preprocess.crops.crop import Crop
from preprocess.dataset import FACES_SUFFIX, Example, PreparedDataset, View, picture_key


@dataclass(frozen=True)
class CachedView:
    """An encoded view on the training device. `moments`: (X, h, w), as `encode_image` returns them.

    `mask`: (1, h, w), 0 to 1; None: the whole image counts in the loss. `control`: the condition of a ControlNet, uint8
    (3, H, W) in colour, or (4, H, W) with opacity, or faces (N, 4 + P); the image itself for a base that reads images;
    None without either.
    """

    moments: Tensor
    mask: Tensor | None
    size: SizeConditioning
    control: Tensor | None = None

    def load(self) -> "CachedView":
        """Return this view, which is already in memory."""
        return self


class LoadableView(Protocol):
    """A view in memory, or one on disk (`trainer.data.latent_store`)."""

    @property
    def size(self) -> SizeConditioning: ...

    def load(self) -> CachedView: ...


@dataclass(frozen=True)
class CachedExample:
    """One image with all its views, which are of one bucket. `picture`: as in `Example`.

    `caption` contains the trigger word as the user writes it. In each step, one of `caption` and `other_captions` is
    drawn.
    """

    views: tuple[LoadableView, ...]
    caption: str
    concept: str | None
    bucket: tuple[int, int]
    repeats: int
    weight: float
    other_captions: tuple[str, ...] = ()
    picture: int | None = None


def by_picture(examples: Sequence[CachedExample]) -> list[list[int]]:
    """Return the indices of the examples of each image: one, or several if it is trained at several resolutions."""
    found: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        found.setdefault(picture_key(index, example.picture), []).append(index)
    return list(found.values())


def cache_examples(dataset: PreparedDataset, family: ModelFamily) -> Iterator[CachedExample]:
    """Encode the images one by one."""
    for example in dataset.examples:
        views = tuple(encode_view(dataset.folder, view, family) for view in example.views)
        yield CachedExample(
            views, example.caption, example.concept, example.bucket, example.repeats, example.weight,
            example.other_captions, example.picture,
        )  # fmt: skip


def keeps_pictures(family: ModelFamily) -> bool:
    """Whether the images themselves are used in training: restored, or embedded."""
    reader = embeds_pictures(family)
    return restoring(family) is not None or (reader is not None and reader.picture_encoder is not None)


def count_views(examples: tuple[Example, ...]) -> int:
    """Return the number of views to encode."""
    return sum(len(example.views) for example in examples)


@torch.no_grad()
def encode_view(folder: Path, view: View, family: ModelFamily) -> CachedView:
    """Encode one view on the VAE's device: the moments of its latents, its mask, and its conditioning picture."""
    device = family.device if family.vae is None else next(family.vae.parameters()).device
    with Image.open(folder / view.file) as image:
        levels = to_levels(image.convert("RGB"))
    moments = family.encode_image(in_range(levels).unsqueeze(0).to(device))[0]
    mask = None
    if view.mask:
        with Image.open(folder / view.mask) as image:
            mask = to_latent_mask(image.convert("L"), moments.shape[-2:]).to(device)
    control = None
    if keeps_pictures(family):  # a dataset that was prepared for a ControlNet may be trained without one
        control = levels.to(device)
    elif view.control:
        control = _control(folder / view.control).to(device)
    return CachedView(moments, mask, size_conditioning(view.crop), control)


def _control(path: Path) -> Tensor:
    """The condition of a view: an image, or faces. Raises DatasetError."""
    if path.suffix == FACES_SUFFIX:
        return torch.from_numpy(read_faces(path))
    with Image.open(path) as image:
        return to_levels(image.convert("RGBA" if image.mode == "RGBA" else "RGB"))


def to_levels(image: Image.Image) -> Tensor:
    """uint8 (C, H, W)."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def to_pixels(image: Image.Image) -> Tensor:
    """Convert an image to a tensor (3, H, W) in [-1, 1]."""
    return in_range(to_levels(image))


def in_range(levels: Tensor) -> Tensor:
    """uint8 → fp32 in [-1, 1]."""
    return levels.float() / 127.5 - 1.0


def to_latent_mask(mask: Image.Image, size: torch.Size) -> Tensor:
    """Resize a mask to the latents: (1, h, w) in [0, 1]. Each latent pixel is the mean of the pixels that it covers."""
    values = torch.from_numpy(np.asarray(mask).copy()).float().view(1, 1, mask.height, mask.width) / 255
    return functional.interpolate(values, size=size, mode="area")[0]


def size_conditioning(crop: Crop) -> SizeConditioning:
    """Return SDXL's (height, width) conditioning from the (width, height) pairs of the actual crop."""
    return SizeConditioning(crop.original[::-1], crop.corner[::-1], crop.target[::-1])
