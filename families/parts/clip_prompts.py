"""Prompt encoding shared by families with CLIP text encoders."""

from collections.abc import Sequence
from typing import Any

import torch

from families.family import PromptFeatures


def clip_output(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> Any:
    """The encoder's whole output on prompts cut or padded to its length (77), hidden states of every layer included."""
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

    Old CLIP configurations say eos_token_id = 2, on which transformers pools at the highest token id: right until
    tokens are added, whose ids are higher still.
    """
    getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id


def zeroed_where_empty(features: PromptFeatures, prompts: Sequence[str]) -> PromptFeatures:
    """All zeros for every empty prompt (`force_zeros_for_empty_prompt`: the base was trained so)."""
    embeds, pooled = features.prompt_embeds, features.pooled_prompt_embeds
    kept = torch.tensor([float(bool(prompt)) for prompt in prompts]).to(embeds, non_blocking=True)
    return PromptFeatures(embeds * kept.view(-1, 1, 1), None if pooled is None else pooled * kept.view(-1, 1))


def embeds_as_inputs(wanted: PromptFeatures, unwanted: PromptFeatures) -> dict[str, Any]:
    """Arguments of diffusers' pipelines that take prompts, and what is not wanted, as features."""
    inputs: dict[str, Any] = {
        "prompt_embeds": wanted.prompt_embeds,
        "negative_prompt_embeds": unwanted.prompt_embeds,
    }
    if wanted.pooled_prompt_embeds is not None:
        inputs["pooled_prompt_embeds"] = wanted.pooled_prompt_embeds
        inputs["negative_pooled_prompt_embeds"] = unwanted.pooled_prompt_embeds
    return inputs
