"""Prompt encoding by chat language models: the chat template, and the states of chosen layers.

For `FrozenText`, which loads the model, caches the features, and frees the model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def require_chat_template(tokenizer: Any) -> None:
    """Raises ValueError for a tokenizer without one, for example from an incomplete copy of a folder."""
    if not tokenizer.chat_template:
        raise ValueError("its tokenizer has no chat template (tokenizer/chat_template.jinja): download the whole model")


def chat_text(tokenizer: Any, prompt: str, *, thinking: bool) -> str:
    """The prompt as a user's message, up to the start of the answer. `thinking`: Qwen3's thinking mode; without it the
    template contains an empty thinking block."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )  # fmt: skip
    return str(text)


def padded_ids(tokenizer: Any, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (B, length) each: 1 for tokens, 0 for padding. Longer texts are truncated."""
    batch = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def chosen_states(model: Any, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
    """(B, L, D · number of layers): the concatenated outputs of these layers. 0 is the embedding, -1 the last layer,
    with its norm. The head that predicts the next token is not run. Padding after the tokens does not change their
    states, bit for bit on a CPU.
    """
    output = model.base_model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.cat([output.hidden_states[layer] for layer in layers], dim=-1)
