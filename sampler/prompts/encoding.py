"""Encodes prompts: plain, weighted, or longer than the text encoders' limit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from families.family import PromptFeatures, PromptReader, clip_reader, frozen_reader
from families.parts.placeholder_tokens import expand_triggers
from sampler.prompts.weighted_encoding import encode_in_parts
from sampler.prompts.weights import WeightedText, is_weighted, parse_weights
from sampler.request import RequestError

MAX_TOKENS = 600
"""Largest number of tokens of a prompt that is encoded in parts."""


def encode_pair(wanted: str, unwanted: str, clip_skip: int, family: PromptReader) -> tuple[PromptFeatures, ...]:
    """Encode `wanted` and `unwanted`, with triggers expanded, to features (1, L, D) of equal length.

    A prompt without weights that fits the encoders gives exactly the features of `encode_prompts`. Raises RequestError
    for a prompt that this base cannot read.
    """
    features = [
        _encode(text, name, clip_skip, family) for name, text in (("prompt", wanted), ("negative_prompt", unwanted))
    ]
    length = max(one.length for one in features)
    return tuple(
        _lengthened(one, length, text, clip_skip, family)
        for one, text in zip(features, (wanted, unwanted), strict=True)
    )


def require_readable(
    prompts: Mapping[str, str], triggers: Mapping[str, Sequence[str]], family: PromptReader
) -> list[str]:
    """Check `prompts` (by the names of their inputs). Raises RequestError for one that this base cannot read
    completely.

    Returns notes on prompts that are encoded in parts.
    """
    notes = []
    for name, prompt in prompts.items():
        text = expand_triggers(prompt, triggers)
        parts = parse_weights(text, name)
        if is_weighted(parts) and clip_reader(family) is None:
            raise RequestError(
                f"{name}: {family.name} encodes prompts with a language model, which does not support weights. Leave "
                r"the weights out, or write \(words:1.2\) for the text itself."
            )
        count, room = _count_tokens(parts, family)
        if count > room and clip_reader(family) is None:
            raise RequestError(_too_long(name, parts, count, room, family))
        if count > max(room, MAX_TOKENS):
            raise RequestError(f"{name}: has {count} tokens; the limit is {MAX_TOKENS}. Shorten it.")
        if count > room:
            notes.append(f"{name}: {count} tokens are encoded in parts of up to {room}")
    return notes


def _encode(text: str, name: str, clip_skip: int, family: PromptReader) -> PromptFeatures:
    require_readable({name: text}, {}, family)
    parts = parse_weights(text, name)
    count, room = _count_tokens(parts, family)
    reader = clip_reader(family)
    if reader is None:
        return family.encode_prompts([parts[0].text])
    if not is_weighted(parts) and count <= room:
        return reader.encode_prompts_early([parts[0].text], clip_skip)
    return encode_in_parts(parts, clip_skip, family)


def _lengthened(
    features: PromptFeatures, length: int, text: str, clip_skip: int, family: PromptReader
) -> PromptFeatures:
    """Pad with the features of an empty prompt, or with zeros if the empty prompt is encoded as zeros."""
    if features.length == length:
        return features
    reader = clip_reader(family)
    if reader is None:
        return features.padded(length)
    empty = reader.encode_prompts_early([" " if text else ""], clip_skip)
    missing = (length - features.length) // empty.length
    embeds = torch.cat([features.prompt_embeds, *[empty.prompt_embeds] * missing], dim=1)
    return replace(features, prompt_embeds=embeds)


def _count_tokens(parts: Sequence[WeightedText], family: PromptReader) -> tuple[int, int]:
    """Return the token count of the prompt (by the tokenizer that needs the most), and the limit; both without start
    and end tokens."""
    frozen = frozen_reader(family)
    if frozen is not None:
        return frozen.count_tokens("".join(part.text for part in parts))
    counts = []
    for tokenizer in family.tokenizers:
        texts = [part.text for part in parts]
        ids = tokenizer(texts, truncation=False, verbose=False).input_ids
        counts.append((sum(len(one) - 2 for one in ids), int(tokenizer.model_max_length) - 2))
    return max(count for count, _ in counts), min(room for _, room in counts)


def _too_long(name: str, parts: Sequence[WeightedText], count: int, room: int, family: PromptReader) -> str:
    if not family.tokenizers:
        return f"{name}: has {count} tokens; the limit of this base model ({family.name}) is {room}. Shorten it."
    text, tokenizer = "".join(part.text for part in parts), family.tokenizers[0]
    kept = tokenizer.decode(tokenizer(text, truncation=True).input_ids[-6:-1]).strip()
    return (
        f"{name}: has {count} tokens; the limit of this base model ({family.name}) is {room}: the text after “… "
        f"{kept}” would be ignored. Shorten it."
    )
