"""Encoders of images and texts from transformers: CLIP, DINOv2, and the evaluator of the embedded base model."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from families.loading.sources import EMBEDDED_BASE_FOLDER
from fetching.hub_connection import require_hub
from settings.record import ConfigError

EMBEDDED_EVALUATOR = "mini-sdxl"
"""Name of the CLIP towers that were trained with the embedded base. They were only trained on its domain of drawn
shapes."""
BATCH = 32
MAX_TEXT_TOKENS = 77


class ImageEncoder(Protocol):
    """An encoder of images to unit vectors."""

    name: str

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N, P) on the CPU, fp32, in the order of the images."""


class ClipEncoder:
    """Both towers of a CLIP (Radford et al. 2021), on one device, in fp32."""

    def __init__(self, name: str = EMBEDDED_EVALUATOR, device: torch.device | str = "cpu") -> None:
        """`name`: mini-sdxl, a hub id such as openai/clip-vit-large-patch14, or a folder. Raises ConfigError."""
        self.name = name
        vision, text, tokenizer = _clip_parts(name)

        def load() -> tuple[Any, Any, Any, Any]:
            return (
                CLIPImageProcessorPil.from_pretrained(vision),
                CLIPVisionModelWithProjection.from_pretrained(vision, dtype=torch.float32),
                CLIPTextModelWithProjection.from_pretrained(text, dtype=torch.float32),
                CLIPTokenizer.from_pretrained(tokenizer),
            )

        self._processor, vision_model, text_model, self._tokenizer = _loaded("evaluation_clip", name, load)
        self._vision, self._text = vision_model.eval().to(device), text_model.eval().to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N, P)."""
        parts = [
            self._vision(pixel_values=_pixels(self._processor, batch).to(self._device)).image_embeds
            for batch in _batches(images)
        ]
        return functional.normalize(torch.cat(parts), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (N, P) in the space of the images. Texts are truncated to 77 tokens."""
        length = min(MAX_TEXT_TOKENS, self._text.config.max_position_embeddings)
        parts = []
        for batch in _batches(texts):
            tokens = self._tokenizer(
                list(batch), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            parts.append(self._text(tokens.input_ids.to(self._device)).text_embeds)
        return functional.normalize(torch.cat(parts), dim=-1).cpu()


class DinoEncoder:
    """DINOv2 (Oquab et al. 2023), the class token of its last layer. It measures identity better than CLIP."""

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        """`name`: a hub id such as facebook/dinov2-base, or a folder. Raises ConfigError."""
        self.name = name

        def load() -> tuple[Any, Any]:
            return AutoImageProcessor.from_pretrained(name), AutoModel.from_pretrained(name, dtype=torch.float32)

        self._processor, model = _loaded("evaluation_dino", name, load)
        self._model = model.eval().to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors (N, P)."""
        parts = [
            self._model(pixel_values=_pixels(self._processor, batch).to(self._device)).last_hidden_state[:, 0]
            for batch in _batches(images)
        ]
        return functional.normalize(torch.cat(parts), dim=-1).cpu()


def _clip_parts(name: str) -> tuple[str, str, str]:
    """Return the locations of image tower, text tower and tokenizer."""
    if name != EMBEDDED_EVALUATOR:
        return name, name, name
    parts = (EMBEDDED_BASE_FOLDER / part for part in ("image_encoder", "text_encoder_2", "tokenizer_2"))
    vision, text, tokenizer = map(str, parts)
    return vision, text, tokenizer


def _loaded(setting: str, name: str, load: Callable[[], Any]) -> Any:
    try:
        if name != EMBEDDED_EVALUATOR:
            require_hub(name, "config.json")
        return load()
    except (OSError, ValueError, KeyError) as error:
        what = "the folder" if Path(name).is_dir() else "the hub model"
        reason = shorten(str(error), 300, placeholder=" …")
        raise ConfigError(
            f"{setting}: cannot load {what} {name!r} ({reason}). Check its name and the network, "
            "give a local folder, or set evaluate: false"
        ) from error


def _pixels(processor: Any, images: Sequence[Image.Image]) -> Tensor:
    pixels: Tensor = processor([image.convert("RGB") for image in images], return_tensors="pt").pixel_values
    return pixels


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    if not items:
        raise ValueError("there are no images or texts to embed")
    for first in range(0, len(items), BATCH):
        yield items[first : first + BATCH]
