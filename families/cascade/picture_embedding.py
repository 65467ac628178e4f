"""CLIP embeddings of images, an optional input of Stage C."""

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def picture_embeds(encoder: Any, pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → the projections (B, P). The shorter side is scaled to the encoder's, the longer one cropped
    at the centre, as in the original."""
    side = encoder.config.image_size
    height, width = pictures.shape[-2:]
    scale = side / min(height, width)
    size = [max(side, round(height * scale)), max(side, round(width * scale))]
    scaled = functional.interpolate(pictures.float() / 255, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = ((length - side) // 2 for length in size)
    cropped = scaled[:, :, top : top + side, left : left + side]
    mean, deviation = (cropped.new_tensor(each).view(1, 3, 1, 1) for each in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    embeds: Tensor = encoder(pixel_values=((cropped - mean) / deviation).to(encoder.dtype)).image_embeds
    return embeds
