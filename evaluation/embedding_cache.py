"""Caches embeddings by pixel content, in memory and in a file for the next run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluation.encoders import ImageEncoder


class CachedEncoder:
    """An ImageEncoder with a cache. `file`: read on creation if it exists, written by `save`."""

    def __init__(self, encoder: ImageEncoder, file: Path | None = None) -> None:
        self.name = encoder.name
        self._encoder, self._file = encoder, file
        self._known: dict[str, Tensor] = _read(file) if file else {}

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N, P). Only images that are not in the cache are encoded, in one call."""
        keys = [self._key(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._known}
        if new:
            vectors = self._encoder.embed(list(new.values()))
            self._known.update(zip(new, vectors, strict=True))
        return torch.stack([self._known[key] for key in keys])

    def save(self) -> None:
        """Write the cache to the file, if there is one."""
        if self._file and self._known:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: vector.contiguous() for key, vector in self._known.items()}, self._file)

    def _key(self, image: Image.Image) -> str:
        """Return the key of an image: encoder, size and pixels."""
        rgb = image.convert("RGB")
        digest = hashlib.sha256(f"{self.name}/{rgb.size}/".encode())
        digest.update(rgb.tobytes())
        return digest.hexdigest()


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        return {}
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError):
        return {}  # an unreadable cache is computed again
