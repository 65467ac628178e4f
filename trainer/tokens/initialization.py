"""Initialises token embeddings: from words, from the mean of matching words, or at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from families.family import ModelFamily
from settings.concepts import ConceptConfig
from settings.record import ConfigError
from settings.sections.tokens import TokenSection, WordConfig
from trainer.patterns.matching import matching

SYMMETRY_BREAKING_NOISE = 0.01
"""Share of the vocabulary's deviation that is added as noise, so that rows with equal initial values differ."""
END_OF_WORD = "</w>"
MOST_WORDS = 100
"""Maximum number of words of train_tokens: an expression that matches more is most likely a mistake."""


@dataclass(frozen=True)
class TokenStart:
    """Initial values of a concept's tokens.

    `ids`: rows of the vocabulary for each text encoder; None: random values. `mean`: use the mean of the rows for every
    token, otherwise one row for each token in turn. `exact`: add no noise, for a word that is trained further.
    """

    ids: tuple[tuple[int, ...], ...] | None = None
    mean: bool = False
    exact: bool = False

    def rows(self, encoder: int, table: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the initial rows (count, d) in fp32 on the CPU, from the encoder's vocabulary (V, d)."""
        table = table.detach().float().cpu()
        noise = torch.randn(count, table.shape[1], generator=generator) * table.std(dim=1).mean()
        if self.ids is None:
            return noise
        found = table[list(self.ids[encoder])]
        chosen = _usual_length(found.mean(dim=0), table).expand(count, -1) if self.mean else _in_turn(found, count)
        return chosen.clone() if self.exact else chosen + SYMMETRY_BREAKING_NOISE * noise


def token_starts(
    settings: TokenSection, concepts: Sequence[ConceptConfig], family: ModelFamily
) -> dict[str, TokenStart]:
    """Return initial values by trigger word. Raises ConfigError, naming the remedy, for words or patterns that are not
    in the vocabulary."""
    return {
        concept.trigger_word: _start(settings, family.tokenizers, concept.trigger_word, concept.class_word)
        for concept in concepts
    }


def word_starts(words: Sequence[WordConfig], family: ModelFamily) -> dict[str, TokenStart]:
    """Return initial values of the words of train_tokens, one token each. Raises ConfigError for expressions that match
    nothing, for too many words, and for a word in two entries."""
    starts: dict[str, TokenStart] = {}
    for entry in words:
        found = _new(entry, family.tokenizers) if entry.is_new else _known(entry.word, family.tokenizers)
        if twice := sorted(starts.keys() & found.keys()):
            raise ConfigError(f"train_tokens: {twice[0]} matches two entries; remove it from one of them")
        starts |= found
    if len(starts) > MOST_WORDS:
        raise ConfigError(f"train_tokens: {len(starts):,} words match, more than {MOST_WORDS}; narrow the expressions")
    return starts


def _new(entry: WordConfig, tokenizers: Sequence[Any]) -> dict[str, TokenStart]:
    if entry.start is None:
        return {entry.word: TokenStart()}
    ids = tuple(_matching(each.get_vocab(), entry.start, "train_tokens") for each in tokenizers)
    return {entry.word: TokenStart(ids, mean=True)}


def _known(pattern: str, tokenizers: Sequence[Any]) -> dict[str, TokenStart]:
    """All whole words that the expression matches in every vocabulary."""
    vocabularies = [each.get_vocab() for each in tokenizers]
    common = sorted(name for name in vocabularies[0] if all(name in each for each in vocabularies))
    whole = [name for name in common if name.endswith(END_OF_WORD) and name.isascii()]
    names = matching(pattern, whole, whole=False, setting="train_tokens")
    if not names:
        raise ConfigError(
            f"train_tokens: {pattern!r} matches no word of the base model's vocabulary; for a new word, write "
            f"[{pattern}]"
        )
    return {
        name.removesuffix(END_OF_WORD): TokenStart(tuple((each[name],) for each in vocabularies), exact=True)
        for name in names
    }


def _start(settings: TokenSection, tokenizers: Sequence[Any], trigger: str, class_word: str | None) -> TokenStart:
    if settings.train_existing_tokens:
        return TokenStart(tuple((_existing(each.get_vocab(), trigger),) for each in tokenizers), exact=True)
    words = settings.token_init_words or class_word
    if settings.token_init == "random" or (words is None and settings.token_init in (None, "images")):
        return TokenStart()
    if settings.token_init == "vocabulary":
        pattern = settings.token_init_pattern or ""
        return TokenStart(
            tuple(_matching(each.get_vocab(), pattern, "token_init_pattern") for each in tokenizers), mean=True
        )
    if words is None:
        raise ConfigError(f"token_init: words, but {trigger} has no class_word; set it, or token_init_words")
    return TokenStart(tuple(tuple(each(words, add_special_tokens=False).input_ids) for each in tokenizers))


def _existing(vocabulary: Mapping[str, int], trigger: str) -> int:
    """Return the id of a word that is a single token."""
    name = trigger.lower() + END_OF_WORD
    if name not in vocabulary:
        raise ConfigError(
            f"train_existing_tokens: {trigger!r} is not a word of the base model's vocabulary; leave "
            "train_existing_tokens out to train it as a new word, or choose another trigger_word"
        )
    return vocabulary[name]


def _matching(vocabulary: Mapping[str, int], pattern: str, setting: str) -> tuple[int, ...]:
    names = matching(pattern, list(vocabulary), whole=False, setting=setting)
    ids = tuple(sorted(vocabulary[name] for name in names))
    if not ids:
        raise ConfigError(
            f"{setting}: {pattern!r} matches no entry of the base model's vocabulary; whole words end in "
            f"{END_OF_WORD}, as in ^dog{END_OF_WORD}"
        )
    return ids


def _in_turn(rows: Tensor, count: int) -> Tensor:
    return rows[[index % len(rows) for index in range(count)]]


def _usual_length(row: Tensor, table: Tensor) -> Tensor:
    """Scale `row` to the mean norm of `table`: a mean of many rows is shorter, as they partly cancel."""
    return row / row.norm().clamp(min=1e-12) * table.norm(dim=1).mean()
