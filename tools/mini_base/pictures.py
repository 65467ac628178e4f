"""Batches of generated images and captions. They only depend on seed and step, so resuming is exact."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def step_random(seed: int, step: int) -> random.Random:
    """The generator of one training step."""
    return random.Random(f"{seed}/{step}")


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """(B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_grid(images: Sequence[Image.Image], path: Path, columns: int, enlarge: int = 1) -> None:
    """Write the images side by side."""
    side = images[0].width
    grid = Image.new("RGB", (columns * side, math.ceil(len(images) / columns) * side), "white")
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * side, index // columns * side))
    grid.resize((grid.width * enlarge, grid.height * enlarge), Image.Resampling.NEAREST).save(path)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] → pictures."""
    values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(value) for value in values]
