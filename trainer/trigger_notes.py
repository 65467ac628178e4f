"""Notes on trigger words without trained tokens."""

from collections.abc import Iterator

from families.family import ModelFamily, frozen_reader
from settings.preparation import DataConfig

MOST_PIECES = 3
"""A word with more tokens than this consists of pieces with other meanings."""


def trigger_notes(preparation: DataConfig, family: ModelFamily) -> Iterator[str]:
    """Yield notes on triggers that the tokenizer splits into many tokens, for families without new tokens."""
    reader = frozen_reader(family)
    if reader is None:
        return
    empty = reader.count_tokens("")[0]
    for concept in preparation.all_concepts:
        pieces = reader.count_tokens(concept.trigger_word)[0] - empty
        if pieces > MOST_PIECES:
            yield (
                f"trigger_word: {concept.trigger_word!r} is a plain word for this base model ({family.name}), and its "
                f"tokenizer splits it into {pieces} tokens, which take longer to train. A short word of its "
                "vocabulary, such as a first name, takes less time."
            )
