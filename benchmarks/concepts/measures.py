"""Measures of how well a training has learned a concept, from images and their embeddings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.concepts.lottery import GROUNDS
from evaluation.similarity import mean_paired_similarity, mean_self_similarity, mean_similarity
from tools.mini_base.drawing.colours import COLOURS, lab

BORDER = 0.06
"""Width of the border whose colours determine a background, as a share of the side."""
LEAST_SHARE_OF_BORDER = 0.6
COMPARED_SIDE = 32
COPIED = 0.5
"""A sample is a copy if its distance to a training image is at most this share of the smallest distance between two
training images."""


@dataclass(frozen=True)
class Measures:
    """likeness: mean cosine of samples and training images, divided by that of the training images to each other;
    likeness_elsewhere: the same for prompts with a background; gain: of likeness over the base; grounds: share of
    samples with the background of the prompt; kept: mean cosine of images of unrelated prompts after and before
    training, same seeds; copies: share of samples that are near-duplicates of a training image."""

    likeness: float
    likeness_elsewhere: float
    gain: float
    grounds: float
    kept: float
    copies: float

    def row(self) -> dict[str, float]:
        """Return the rounded measures by name."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


MEASURES = tuple(field.name for field in fields(Measures))
SMALLER_IS_BETTER = ("copies",)


def likeness(samples: Tensor, pictures: Tensor) -> float:
    """Mean cosine of samples (N, width) and images (M, width), M ≥ 2, relative to that of the images to each other.
    Unit vectors."""
    return mean_similarity(samples, pictures) / mean_self_similarity(pictures)


def gain(after: Tensor, before: Tensor, pictures: Tensor) -> float:
    """Gain in likeness of samples `after` over `before`: unit vectors (N, width), (N, width) and (M, width)."""
    return likeness(after, pictures) - likeness(before, pictures)


def bleeding(samples: Tensor, own: Tensor, other: Tensor) -> float:
    """How far samples (N, width) of one concept are shifted towards another, by images of both (M, width), (K, width).
    Unit vectors. 0: the samples differ from the other concept's images as much as the own training images do; 1: they
    are equally similar to both.
    """
    apart = mean_similarity(samples, own) - mean_similarity(samples, other)
    return 1 - apart / (mean_self_similarity(own) - mean_similarity(own, other))


def kept(after: Tensor, before: Tensor) -> float:
    """Mean paired cosine of samples of the same prompts and seeds: unit vectors (N, width)."""
    return mean_paired_similarity(after, before)


def ground_of(picture: Image.Image) -> str | None:
    """Return the word of GROUNDS that is nearest to most of the border's pixels; None if no word has enough of them."""
    pixels = np.asarray(picture.convert("RGB"))
    width = max(1, round(BORDER * picture.width))
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = True
    border = lab(pixels[~inner])
    words = lab([COLOURS[word] for word in GROUNDS])
    nearest = np.linalg.norm(border[:, None] - words[None], axis=-1).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(GROUNDS))
    enough = counts.max() >= LEAST_SHARE_OF_BORDER * len(border)
    return GROUNDS[int(counts.argmax())] if enough else None


def on_named_ground(pictures: Sequence[Image.Image], words: Sequence[str]) -> float:
    """Share of the images with the background in `words`."""
    return sum(ground_of(picture) == word for picture, word in zip(pictures, words, strict=True)) / len(pictures)


def copies(samples: Sequence[Image.Image], pictures: Sequence[Image.Image]) -> float:
    """Share of the samples that are near-duplicates of a training image, by their pixels."""
    own, taught = _small(samples), _small(pictures)
    apart = torch.cdist(taught, taught)
    apart.fill_diagonal_(float("inf"))
    return float((torch.cdist(own, taught).min(dim=1).values <= COPIED * apart.min()).float().mean())


def _small(pictures: Sequence[Image.Image]) -> Tensor:
    """Return downscaled images (N, pixels), 0 to 1."""
    size = (COMPARED_SIDE, COMPARED_SIDE)
    reduced = [np.asarray(one.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32) for one in pictures]
    return torch.from_numpy(np.stack(reduced)).flatten(1) / 255
