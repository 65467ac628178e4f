"""Faces as the condition of a ControlNet: rows of boxes and embeddings, written into cells of the latents' size.

A condition is (B, N, 4 + P): left, top, right and bottom of each face as fractions of the image's sides, then a unit
vector that identifies the person. Rows of zeros are padding.
"""

from typing import Any

import torch
from torch import Tensor

CORNERS = 4


def is_faces(control: Tensor) -> bool:
    """Whether a cached condition consists of faces, not of an image. `control`: of one image, or of a batch."""
    return control.is_floating_point() and control.ndim <= 3


def reads_faces(controlnet: Any) -> bool:
    """Whether a ControlNet reads face embeddings, not an image."""
    return bool(controlnet.config.get("bottleneck") == "simple")


def painted(faces: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells (B, P, h, w) of `size` (h, w): each face's vector in the cells of its box, zeros elsewhere.

    Edges are rounded to the nearest cell, and a face fills at least one; later faces overwrite earlier ones, as in the
    original's IdentityFilter.
    """
    height, width = size
    left, top, right, bottom = faces[..., :CORNERS].unbind(-1)
    rows, columns = _between(top, bottom, height), _between(left, right, width)
    vectors = faces[..., CORNERS:]
    inside = rows[..., :, None] & columns[..., None, :] & vectors.any(-1)[..., None, None]
    cells = vectors.new_zeros(len(faces), vectors.shape[-1], height, width)
    for number in range(faces.shape[1]):
        cells = torch.where(inside[:, number, None], vectors[:, number, :, None, None], cells)
    return cells


def _between(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """Which of the cells (B, N, cells) are between two edges, given as fractions."""
    first = (start * cells).round().clamp(0, cells - 1)
    last = torch.maximum((end * cells).round(), first + 1)
    places = torch.arange(cells, device=start.device)
    return (places >= first[..., None]) & (places < last[..., None])
