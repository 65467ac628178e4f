"""Replaces trigger words by class words, for models that do not know the LoRA."""

import re
from collections.abc import Callable, Mapping, Sequence

DETERMINERS = "a|an|the|my|his|her|its|our|your|their|this|that|each|every|one|of"
"""Words after which a class word needs no article, and `of`, after which it does."""


def with_plain_words(prompt: str, words: Mapping[str, str]) -> str:
    """Return the prompt with every trigger word in `words` replaced by its class word.

    "a photo of TOK on grass" → "a photo of a dog on grass"; "the TOK dog" → "the dog".
    """
    for trigger in sorted(words, key=len, reverse=True):
        word = words[trigger]
        prompt = re.sub(rf"(?<!\w){re.escape(trigger)}\s+(?={re.escape(word)}(?!\w))", "", prompt)
        prompt = re.sub(rf"(?<!\w)((?i:{DETERMINERS}) )?{re.escape(trigger)}(?!\w)", _replacement(word), prompt)
    return prompt


def words_in(prompt: str, triggers: Sequence[str]) -> list[str]:
    """Return the trigger words that occur in the prompt as whole words."""
    return [trigger for trigger in triggers if re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", prompt)]


def _replacement(word: str) -> Callable[[re.Match[str]], str]:
    article = "an" if word[0].lower() in "aeiou" else "a"

    def replace(match: re.Match[str]) -> str:
        before = match.group(1) or ""
        if before.lower() in ("", "of "):
            return f"{before}{article} {word}"
        if before.lower() in ("a ", "an "):
            return f"{article.capitalize() if before[0].isupper() else article} {word}"
        return f"{before}{word}"

    return replace
