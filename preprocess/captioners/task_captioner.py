"""Captioners with a fixed task and no chat template: Florence-2, BLIP and BLIP-2."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from preprocess.captioners.generation import generate, in_batches

FLORENCE_BEAMS = 3


@dataclass(frozen=True)
class FlorenceCaptioner:
    """Florence-2 (Xiao et al. 2023). `prompt` is a task, such as <DETAILED_CAPTION>."""

    model_id: str
    prompt: str
    model: Any
    processor: Any

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one caption per image, in order. Raises CaptionerError."""
        return in_batches(self.model_id, images, self._caption_batch)

    def _caption_batch(self, images: Sequence[Image.Image]) -> list[str]:
        inputs = self.processor(images=list(images), text=[self.prompt] * len(images), return_tensors="pt")
        answered = generate(self.model, inputs, num_beams=FLORENCE_BEAMS)
        # special tokens are removed first: the post-processing would keep the padding of shorter answers
        texts = self.processor.batch_decode(answered, skip_special_tokens=True)
        return [
            self.processor.post_process_generation(text=text, task=self.prompt, image_size=image.size)[self.prompt]
            for text, image in zip(texts, images, strict=True)
        ]


@dataclass(frozen=True)
class BlipCaptioner:
    """BLIP (Li et al. 2022) and BLIP-2 (Li et al. 2023).

    `prompt`: the words that the model continues, which are removed from the caption. Empty: unconditional captions.
    """

    model_id: str
    prompt: str
    model: Any
    processor: Any

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one caption per image, in order. Raises CaptionerError."""
        return in_batches(self.model_id, images, self._caption_batch)

    def _caption_batch(self, images: Sequence[Image.Image]) -> list[str]:
        begun = [self.prompt] * len(images) if self.prompt else None
        inputs = self.processor(images=list(images), text=begun, return_tensors="pt")
        texts = self._decode(generate(self.model, inputs))
        given = self._decode(inputs["input_ids"][:1])[0] if begun else ""
        return [text.removeprefix(given).strip() for text in texts]

    def _decode(self, token_ids: Any) -> list[str]:
        return [text.strip() for text in self.processor.batch_decode(token_ids, skip_special_tokens=True)]
