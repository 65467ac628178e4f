"""Prompt encoding of both trained stages: by CLIP-G, with the tokenizer's mask."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def read_prompts(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """CLIP-G's last states before the final norm (B, 77, D), those of padding included, and its projection (B, P).

    The states of the padding depend on the mask, and Stage C was trained with it.
    """
    length = tokenizer.model_max_length
    batch = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").to(
        encoder.device
    )
    output = encoder(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    return output.hidden_states[-1], output.text_embeds
