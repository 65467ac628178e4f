"""Compares pictures by the embeddings of a CLIP image tower: the embedded base has its own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from families.sources import EMBEDDED_BASE_FOLDER

EMBEDDED_EVALUATOR = EMBEDDED_BASE_FOLDER / "image_encoder"


class ImageEvaluator:
    """A CLIP image tower in a folder, with its processor."""

    def __init__(self, folder: Path = EMBEDDED_EVALUATOR) -> None:
        self._processor = CLIPImageProcessorPil.from_pretrained(folder)
        self._model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors (N, P)."""
        pixels = self._processor([image.convert("RGB") for image in images], return_tensors="pt").pixel_values
        return functional.normalize(self._model(pixel_values=pixels).image_embeds, dim=-1)


def mean_similarity(first: Tensor, second: Tensor) -> float:
    """Mean cosine over all pairs of (N, P) and (M, P) unit vectors."""
    return float((first @ second.T).mean())


def mean_self_similarity(vectors: Tensor) -> float:
    """Mean cosine over all pairs of different members of (N, P) unit vectors, N > 1."""
    cosines = vectors @ vectors.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (len(vectors) * (len(vectors) - 1)))


def mean_paired_similarity(first: Tensor, second: Tensor) -> float:
    """Mean cosine of the i-th of one with the i-th of the other, both (N, P)."""
    return float((first * second).sum(dim=-1).mean())
