"""Prompts as the text encoders take them: how long they may be, and who reads the weighted ones."""

from collections.abc import Mapping, Sequence

from families.family import ModelFamily, PromptFeatures, SkipsClipLayers
from families.placeholder_tokens import expand_triggers
from sampler.request import RequestError


def encode(text: str, clip_skip: int, family: ModelFamily) -> PromptFeatures:
    """Features of one prompt, triggers expanded: (1, L, D)."""
    if clip_skip and isinstance(family, SkipsClipLayers):
        return family.encode_prompts_early([text], clip_skip)
    return family.encode_prompts([text])


def require_short_enough(
    prompts: Mapping[str, str], triggers: Mapping[str, Sequence[str]], family: ModelFamily
) -> None:
    """Raises RequestError for a prompt (by the name of its input) that the encoders would cut without a word."""
    for name, prompt in prompts.items():
        text = expand_triggers(prompt, triggers)
        for tokenizer in family.tokenizers:
            room = int(tokenizer.model_max_length)
            count = len(tokenizer(text, truncation=False, verbose=False).input_ids)  # start and end included
            if count > room:
                kept = tokenizer.decode(tokenizer(text, truncation=True).input_ids[-6:-1]).strip()
                raise RequestError(
                    f"{name}: has {count - 2} tokens, of which this base reads {room - 2}: everything behind "
                    f"“… {kept}” would be lost. Shorten it."
                )
