"""Upscales images smaller than their bucket with Swin2SR (Conde et al. 2022), which generates plausible details."""

from dataclasses import dataclass
from math import ceil
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Swin2SRForImageSuperResolution

from fetching.hub_connection import require_hub
from preprocess.errors import SetupError
from preprocess.workers.devices import best_device

REMEDY = "Set upscaler to a folder with one, or leave it out: small images are then trained at a smaller size"
TILE, OVERLAP = 256, 16
"""In pixels of the small image. Tiles limit the memory; pixels near a tile's edge are taken from its neighbour."""


@dataclass(frozen=True)
class Upscaler:
    """A loaded model, used by one thread at a time."""

    model: Any
    lock: Lock

    @classmethod
    def load(cls, source: str) -> "Upscaler":
        """Load from the hub or a folder; safetensors only. Raises SetupError when it cannot be loaded."""
        try:
            require_hub(source, "config.json")
            model, report = Swin2SRForImageSuperResolution.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise SetupError(f"upscaler {source}: cannot be loaded as a Swin2SR model ({reason}). {REMEDY}") from error
        if missing := sorted(report["missing_keys"]):  # transformers would initialise them at random
            raise SetupError(
                f"upscaler {source}: lacks {len(missing)} weights of the model, such as {missing[0]}. {REMEDY}"
            )
        return cls(model.to(best_device()).eval(), Lock())

    @property
    def factor(self) -> int:
        """The factor of width and height."""
        return int(self.model.config.upscale)

    def enlarge(self, image: Image.Image) -> Image.Image:
        """Return an RGB image `factor` times as wide and high."""
        large = Image.new("RGB", (image.width * self.factor, image.height * self.factor))
        with self.lock:
            for top in range(0, image.height, TILE):
                for left in range(0, image.width, TILE):
                    large.paste(self._tile(image, left, top), (left * self.factor, top * self.factor))
        return large

    @torch.inference_mode()
    def _tile(self, image: Image.Image, left: int, top: int) -> Image.Image:
        """Enlarge one tile together with its surroundings, and cut these off."""
        width, height = min(TILE, image.width - left), min(TILE, image.height - top)
        box = (max(0, left - OVERLAP), max(0, top - OVERLAP),
               min(image.width, left + width + OVERLAP), min(image.height, top + height + OVERLAP))  # fmt: skip
        pixels = torch.from_numpy(np.asarray(image.crop(box)).copy()).permute(2, 0, 1).float().unsqueeze(0) / 255
        padded = torch.nn.functional.pad(pixels, self._padding(pixels), mode="replicate")
        made = self.model(padded.to(self.model.device)).reconstruction[0].clamp(0, 1).cpu()
        whole = Image.fromarray((made * 255).round().byte().permute(1, 2, 0).numpy())
        x, y = (left - box[0]) * self.factor, (top - box[1]) * self.factor
        return whole.crop((x, y, x + width * self.factor, y + height * self.factor))

    def _padding(self, pixels: torch.Tensor) -> tuple[int, int, int, int]:
        """Return the padding at right and bottom up to a multiple of the model's window size."""
        window = int(self.model.config.window_size)
        height, width = pixels.shape[-2:]
        return 0, ceil(width / window) * window - width, 0, ceil(height / window) * window - height
