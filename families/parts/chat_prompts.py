"""Prompt encoding by chat language models: the chat template, and the states of chosen layers.

For `FrozenText`, which loads the model, keeps what is read, and frees the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def require_chat_template(tokenizer: Any) -> None:
    """Raises ValueError for a tokenizer without one, as a folder leaves it that was copied in part."""
    if not tokenizer.chat_template:
        raise ValueError("its tokenizer has no chat template (tokenizer/chat_template.jinja): download the whole model")


def chat_text(tokenizer: Any, prompt: str, *, thinking: bool) -> str:
    """The prompt as a user's message, up to where the answer would begin. `thinking`: Qwen3's mode of that name, in
    whose absence the template has an empty thought behind it."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )  # fmt: skip
    return str(text)


def padded_ids(tokenizer: Any, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (B, length) each: 1 where a token counts. Longer texts are cut."""
    batch = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def chosen_states(model: Any, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
    """(B, L, D · number of layers): the states behind these layers side by side. 0 is the embedding, -1 the last, with
    its norm. What predicts the next word is left out.

    With padding behind the words, their states are those without padding, to the last bit on a CPU.
    """
    output = model.base_model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.cat([output.hidden_states[layer] for layer in layers], dim=-1)
