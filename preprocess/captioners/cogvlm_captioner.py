"""The original CogVLM and CogVLM2, which run code from their repositories.

Written after their published usage (https://github.com/THUDM/CogVLM); that code was made for transformers 4.3x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature

from preprocess.captioners.captioner import CaptionerError
from preprocess.captioners.generation import generate, in_batches

TOKENIZERS = {"THUDM/cogvlm-chat-hf": "lmsys/vicuna-7b-v1.5"}  # the model repository has no tokenizer


@dataclass(frozen=True)
class CogvlmCaptioner:
    """Captions one image at a time: the model's own code prepares the inputs and does not pad."""

    model_id: str
    prompt: str
    model: Any
    tokenizer: Any

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one caption per image, in order. Raises CaptionerError."""
        return in_batches(self.model_id, images, lambda batch: [self._caption_one(image) for image in batch])

    def _caption_one(self, image: Image.Image) -> str:
        try:
            inputs = self._inputs(image)
            answered = generate(self.model, inputs)
        except (AttributeError, ImportError, LookupError, TypeError) as error:
            raise CaptionerError(
                f"{self.model_id}: its own code does not run with this version of transformers ({error!r}). "
                "Choose glm-4v, its successor, which needs no own code."
            ) from error
        answer: str = self.tokenizer.decode(answered[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip()

    def _inputs(self, image: Image.Image) -> BatchFeature:
        made = self.model.build_conversation_input_ids(self.tokenizer, query=self.prompt, history=[], images=[image])
        tensors = {name: made[name].unsqueeze(0) for name in ("input_ids", "token_type_ids", "attention_mask")}
        pixels: torch.Tensor = made["images"][0].to(self.model.device, self.model.dtype)
        return BatchFeature({**tensors, "images": [[pixels]]})
