"""Placeholder tokens in the text encoders, which replace trigger words in prompts.

Textual inversion (Gal et al. 2022) with several vectors per concept, in every text encoder of the base.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from families.family import ModelFamily


def placeholder_names(count: int, first: int = 0) -> list[str]:
    """Return `<s0>`, `<s1>`, …, the names that Replicate's SDXL predictors use."""
    return [f"<s{index}>" for index in range(first, first + count)]


def first_free_placeholder(family: ModelFamily) -> int:
    """Return the number n from which on no vocabulary contains `<s{n}>`: 0, except for base models that contain trained
    placeholder tokens."""
    known = (re.fullmatch(r"<s(\d+)>", name) for tokenizer in family.tokenizers for name in tokenizer.get_vocab())
    return max((int(match.group(1)) + 1 for match in known if match), default=0)


def expand_triggers(prompt: str, triggers: Mapping[str, Sequence[str]]) -> str:
    """Replace every trigger that is a whole word by its placeholder tokens.

    "Tokyo, TOK's hat" with {"TOK": ["<s0>", "<s1>"]} becomes "Tokyo, <s0><s1>'s hat". Case matters. Longer triggers
    match first, so that "TOK2" is not read as "TOK". A trigger without tokens is a plain word, and stays.
    """
    triggers = {trigger: tokens for trigger, tokens in triggers.items() if tokens}
    if not triggers:
        return prompt
    words = "|".join(re.escape(trigger) for trigger in sorted(triggers, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda match: "".join(triggers[match.group()]), prompt)


def without_placeholders(prompt: str) -> str:
    """Remove placeholders for an encoder without rows for them: "a photo of <s0><s1> at sea" becomes "a photo of at
    sea"."""
    return " ".join(re.sub(r"<s\d+>", " ", prompt).split())


def tokenizers_with(family: ModelFamily, names: Sequence[str]) -> list[Any]:
    """Return copies of the base's tokenizers with these tokens added. Raises ValueError when a name exists already."""
    taken: set[str] = set()
    for tokenizer in family.tokenizers:
        taken |= tokenizer.get_vocab().keys() & set(names)
    if taken:
        raise ValueError(f"the base model's vocabulary already contains {', '.join(sorted(taken))}")
    tokenizers = copy.deepcopy(family.tokenizers)
    for tokenizer in tokenizers:
        tokenizer.add_tokens(list(names))
    return tokenizers


class PlaceholderTokens:
    """Adds rows to the vocabularies of a base, and removes them again completely."""

    def __init__(
        self,
        family: ModelFamily,
        names: Sequence[str],
        rows: Sequence[Tensor],
        tokenizers: Sequence[Any] | None = None,
    ) -> None:
        """`rows`: one tensor (n, d) for each text encoder, d its width; n = len(names).

        `tokenizers`: the result of `tokenizers_with`, where it exists already. Raises ValueError when a name exists
        already or a shape does not fit.
        """
        self._family = family
        self._tokenizers = list(family.tokenizers)
        self._embeddings = [encoder.get_input_embeddings() for encoder in family.text_encoders]
        self.names = list(names)
        self.ids: list[list[int]] = []
        if not self.names:  # all triggers are plain words
            return
        extended = tokenizers or tokenizers_with(family, names)
        for embedding, row in zip(self._embeddings, rows, strict=True):  # checked before anything is changed
            if tuple(row.shape) != (len(self.names), embedding.embedding_dim):
                raise ValueError(
                    f"token embeddings of shape {tuple(row.shape)} do not match the text encoder; expected "
                    f"({len(self.names)}, {embedding.embedding_dim})"
                )
        for index, (encoder, row) in enumerate(zip(family.text_encoders, rows, strict=True)):
            tokenizer = extended[index]
            encoder.set_input_embeddings(
                _with_rows(self._embeddings[index], tokenizer.convert_tokens_to_ids(self.names), row)
            )
            family.tokenizers[index] = tokenizer
            self.ids.append(tokenizer.convert_tokens_to_ids(self.names))

    @property
    def vocabularies(self) -> list[Tensor]:
        """The embedding tables (V, d) of the base without new tokens, one for each text encoder."""
        return [embedding.weight.detach() for embedding in self._embeddings]

    def remove(self) -> None:
        """Restore the base's own embeddings, as the same objects."""
        self._family.tokenizers[:] = self._tokenizers
        for encoder, embedding in zip(self._family.text_encoders, self._embeddings, strict=True):
            encoder.set_input_embeddings(embedding)


def _with_rows(embedding: Any, ids: Sequence[int], rows: Tensor) -> nn.Embedding:
    """Return a copy of `embedding` (V, d), extended to contain `rows` (n, d) at `ids`."""
    table = embedding.weight.data
    longer = table.new_empty(max(max(ids) + 1, len(table)), table.shape[1])
    longer[: len(table)] = table
    longer[len(table) :] = 0
    longer[list(ids)] = rows.to(table)
    return nn.Embedding.from_pretrained(longer, freeze=True)
