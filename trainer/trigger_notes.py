"""Notes on trigger words that stay plain words of the prompt."""

from collections.abc import Iterator

from families.family import ModelFamily, frozen_reader
from settings.preparation import DataConfig

MOST_PIECES = 3
"""More tokens than this for one word are pieces that mean other things."""


def trigger_notes(preparation: DataConfig, family: ModelFamily) -> Iterator[str]:
    """For families whose language model learns no words: triggers that its tokenizer cuts into many pieces."""
    reader = frozen_reader(family)
    if reader is None:
        return
    empty = reader.count_tokens("")[0]
    for concept in preparation.all_concepts:
        pieces = reader.count_tokens(concept.trigger_word)[0] - empty
        if pieces > MOST_PIECES:
            yield (
                f"trigger_word: {concept.trigger_word!r} is a plain word for this base ({family.name}), and its "
                f"tokenizer cuts it into {pieces} pieces, which are slow to learn. A short word that the model knows, "
                "such as a first name, is learned sooner."
            )
