"""What families have in common in reading prompts with CLIP text encoders."""

from collections.abc import Sequence
from typing import Any

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
