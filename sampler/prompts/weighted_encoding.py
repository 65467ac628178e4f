"""Encodes prompts with weights, or longer than the encoders' limit, with compel.

compel (https://github.com/damian0815/compel) scales the states of words with a weight above 1 away from those of the
empty prompt, and for weights below 1 mixes in the states of a prompt without these words. Only this arithmetic is used,
not compel's syntax, in which "C++" and "a well-" would be weights.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from families.family import PromptFeatures, PromptReader
from sampler.prompts.weights import WeightedText
from sampler.request import RequestError


def encode_in_parts(parts: Sequence[WeightedText], clip_skip: int, family: Any) -> PromptFeatures:
    """Encode one prompt, with triggers expanded, to features (1, n · 77, D). The family must be a `ReadsByClip`.

    The prompt is split between words into parts of up to 75 tokens, which are encoded separately. The pooled features,
    where there are any, are those of the first 75 tokens without weights. Raises RequestError.
    """
    texts, weights = [part.text for part in parts], [part.weight for part in parts]
    states = []
    for number in range(len(family.text_encoders)):
        provider = _provider(number, clip_skip, family)
        try:
            read = provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=family.device)
        except RuntimeError as error:  # compel cannot locate the words among the tokens
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise RequestError(f"prompt: its weights cannot be applied ({error}). Leave them out.") from error
        states.append(read)
    if len({read.shape[1] for read in states}) > 1:
        raise RequestError("prompt: the text encoders of this base model split it into different parts. Shorten it.")
    pooled = family.encode_prompts(["".join(texts)]).pooled_prompt_embeds
    return PromptFeatures(torch.cat(states, dim=-1), pooled)


def _provider(number: int, clip_skip: int, family: PromptReader) -> Any:
    from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode  # deferred: the import takes seconds

    return EmbeddingsProvider(
        family.tokenizers[number],
        _StatesOfEncoder(family, number, clip_skip),
        truncate=False,
        split_long_text_mode=SplitLongTextMode.WORDS,
    )


class _StatesOfEncoder:
    """A text encoder with compel's interface, whose `last_hidden_state` are the states that the family uses."""

    def __init__(self, family: Any, number: int, clip_skip: int) -> None:
        self._family, self._number, self._clip_skip = family, number, clip_skip
        self._encoder = family.text_encoders[number]
        self.device, self.dtype = self._encoder.device, self._encoder.dtype

    def __call__(self, token_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> SimpleNamespace:
        hides = attention_mask is not None and not bool(attention_mask.all())
        output = self._encoder(token_ids, attention_mask=attention_mask if hides else None, output_hidden_states=True)
        return SimpleNamespace(last_hidden_state=self._family.encoder_states(self._number, output, self._clip_skip))
