"""Prompt encoding shared by families with CLIP text encoders."""

from collections.abc import Sequence
from typing import Any

import torch

from families.family import PromptFeatures


def clip_output(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> Any:
    """Return the encoder's output with all hidden states, for prompts truncated or padded to its length (77)."""
    batch = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return encoder(batch.input_ids.to(encoder.device, non_blocking=True), output_hidden_states=True)


def pool_at_end_of_text(tokenizer: Any, encoder: Any) -> None:
    """Make the encoder pool at the end-of-text token.

    Old CLIP configurations have eos_token_id = 2, for which transformers pools at the highest token id. This is wrong
    once tokens are added, whose ids are higher.
    """
    getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id


def zeroed_where_empty(features: PromptFeatures, prompts: Sequence[str]) -> PromptFeatures:
    """Return zeros for every empty prompt, for bases that were trained so (`force_zeros_for_empty_prompt`)."""
    embeds, pooled = features.prompt_embeds, features.pooled_prompt_embeds
    kept = torch.tensor([float(bool(prompt)) for prompt in prompts]).to(embeds, non_blocking=True)
    return PromptFeatures(embeds * kept.view(-1, 1, 1), None if pooled is None else pooled * kept.view(-1, 1))


def embeds_as_inputs(wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
    """Return the features of prompt and negative prompt as arguments of a diffusers pipeline."""
    inputs: dict[str, Any] = {
        "prompt_embeds": wanted.prompt_embeds,
        "negative_prompt_embeds": unwanted.prompt_embeds,
    }
    if wanted.pooled_prompt_embeds is not None:
        inputs["pooled_prompt_embeds"] = wanted.pooled_prompt_embeds
        inputs["negative_pooled_prompt_embeds"] = unwanted.pooled_prompt_embeds
    return inputs
