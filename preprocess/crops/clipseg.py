"""CLIPSeg: segments the subject of an image by a text prompt.

Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts" (CVPR 2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from fetching.hub_connection import require_hub
from preprocess.crops.masks import normalise
from preprocess.errors import DatasetError, SetupError
from preprocess.workers.devices import best_device

CLIPSEG = "CIDAS/clipseg-rd64-refined"
SOFTNESS = 0.01  # standard deviation of the blur, relative to the width of the model's output


@dataclass(frozen=True)
class SegmentedSubject:
    """`mask`: mode "L", of the image's size, 255 on the subject; None when no pixel matches the prompts.

    `warnings` contain reason and remedy; the caller adds the file name.
    """

    mask: Image.Image | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubjectSegmenter:
    """`temperature` divides the logits: below 1 the mask is harder. `least_probability`: the smallest maximum
    probability (at temperature 1) for which the prompts count as found."""

    model: CLIPSegForImageSegmentation
    processor: CLIPSegProcessor
    temperature: float = 0.7
    least_probability: float = 0.3

    @classmethod
    def load(cls, source: str | Path = CLIPSEG) -> "SubjectSegmenter":
        """Load from the hub or a local folder; safetensors only. Raises SetupError when it cannot be loaded."""
        try:
            require_hub(str(source), "config.json")
            processor = CLIPSegProcessor.from_pretrained(source)
            model, report = CLIPSegForImageSegmentation.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise SetupError(
                f"{source}: cannot be loaded as a CLIPSeg model ({error}); download {CLIPSEG} in safetensors and set "
                "mask_model to its folder, or train without subject masks"
            ) from error
        if missing := sorted(report["missing_keys"]):  # transformers would initialise them at random
            raise SetupError(
                f"{source}: lacks {len(missing)} weights of CLIPSeg, such as {missing[0]}; set mask_model to a "
                "complete model, or train without subject masks"
            )
        return cls(model.to(best_device()).eval(), processor)

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> SegmentedSubject:
        """Return the mask of everything in an RGB image that matches one of `prompts`.

        The mask is the maximum over the prompts of sigmoid(logits / temperature), blurred, resized to the image, and
        divided by its maximum. Raises DatasetError when there are no prompts.
        """
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise DatasetError('masks by text need a prompt that names the subject, such as "dog"')
        logits = self._logits(image, prompts)
        surest = float(logits.sigmoid().max())
        if surest < self.least_probability:
            return SegmentedSubject(None, (self._unanswered(prompts, surest),))
        levels = (logits / self.temperature).sigmoid().numpy()
        mask = Image.fromarray((levels * (255 / levels.max())).round().astype("uint8"))
        softened = mask.filter(ImageFilter.GaussianBlur(SOFTNESS * mask.width))
        return SegmentedSubject(normalise(softened.resize(image.size, Image.Resampling.BILINEAR)))

    @torch.inference_mode()
    def _logits(self, image: Image.Image, prompts: Sequence[str]) -> Tensor:
        """Return the maximum over the prompts: (rows, columns) at the model's resolution."""
        inputs = self.processor(
            text=list(prompts), images=[image] * len(prompts), padding=True, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        logits: Tensor = self.model(**inputs).logits
        return logits.reshape(len(prompts), *logits.shape[-2:]).amax(dim=0).float().cpu()

    def _unanswered(self, prompts: Sequence[str], surest: float) -> str:
        words = ", ".join(map(repr, prompts))
        return (
            f"nothing in it matches {words} (probability {surest:.2f}, {self.least_probability} is needed), so it has "
            "no mask; change mask_prompt, or remove the image"
        )
