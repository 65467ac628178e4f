"""The original CogVLM and CogVLM2, which run code from their repositories.

Written after their published usage (https://github.com/THUDM/CogVLM); that code was made for transformers 4.3x. Its
`generate` needs parts of transformers that were removed since, so the answer is decoded here, with the model's own
inputs and its cache of keys and values as tuples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from preprocess.captioners.captioner import CaptionerError
from preprocess.captioners.generation import MAX_NEW_TOKENS, in_batches

FIRST_VERSION, ITS_TOKENIZER = "cogvlm-", "lmsys/vicuna-7b-v1.5"
"""Beginning of the names of the first version's repositories, which contain no tokenizer, and the one they use."""


def tokenizer_of(source: str) -> str:
    """Return the source of the tokenizer. A folder may contain one."""
    own = any(Path(source).glob("tokenizer*")) if Path(source).is_dir() else False
    return ITS_TOKENIZER if Path(source).name.startswith(FIRST_VERSION) and not own else source


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
            answer = self._answer(image)
        except (AssertionError, AttributeError, ImportError, LookupError, TypeError) as error:
            raise CaptionerError(
                f"{self.model_id}: its own code does not run with this version of transformers ({error!r}). "
                "Choose glm-4v, its successor, which needs no own code."
            ) from error
        text: str = self.tokenizer.decode(answer, skip_special_tokens=True)
        return text.strip()

    @torch.inference_mode()
    def _answer(self, image: Image.Image) -> list[int]:
        """Return the tokens of the most probable answer, without the end token."""
        made = self.model.build_conversation_input_ids(self.tokenizer, query=self.prompt, history=[], images=[image])
        device = self.model.device
        tokens, kinds, mask = (
            made[name].unsqueeze(0).to(device) for name in ("input_ids", "token_type_ids", "attention_mask")
        )
        pixels: torch.Tensor = made["images"][0].to(device, self.model.dtype)
        answer: list[int] = []
        cache = None
        while len(answer) < MAX_NEW_TOKENS:
            inputs = self.model.prepare_inputs_for_generation(
                tokens, token_type_ids=kinds, attention_mask=mask, images=[[pixels]], past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
            output = self.model(**inputs, return_dict=True)
            chosen = output.logits[:, -1:].argmax(-1)
            if int(chosen) in self._ends:
                break
            answer.append(int(chosen))
            cache = output.past_key_values
            tokens = torch.cat([tokens, chosen], dim=1)
            kinds = torch.cat([kinds, torch.zeros_like(kinds[:, :1])], dim=1)  # 0: text
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return answer

    @cached_property
    def _ends(self) -> set[int]:
        """The end tokens of model and tokenizer."""
        owners = (self.model.config, getattr(self.model, "generation_config", None), self.tokenizer)
        given = [getattr(owner, "eos_token_id", None) for owner in owners]
        listed = [token for each in given for token in (each if isinstance(each, list) else [each])]
        return {token for token in listed if token is not None}
