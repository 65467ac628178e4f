"""Inserts the trigger word into a caption, as a whole word at a fixed place."""

import re
from collections.abc import Iterable

TEMPLATES = {
    "face": "a photo of {trigger}",
    "object": "a photo of {trigger}",
    "style": "a picture in the style of {trigger}",
}
PEOPLE = ("man", "woman", "boy", "girl", "person", "lady", "guy", "child", "face")
"""Words for a person in captions. In face mode the trigger is inserted before the first of them."""

MARKS = ",.;:!?"


def template(concept_mode: str, trigger_word: str, class_word: str | None) -> str:
    """Return the caption for an image without one: "a photo of TOK", or "a photo of TOK dog"."""
    words = f"{trigger_word} {class_word}" if class_word and concept_mode != "style" else trigger_word
    return TEMPLATES[concept_mode].format(trigger=words)


def class_template(concept_mode: str, class_word: str | None) -> str:
    """Return the caption for a preservation image without one: "a photo of dog", or "" without a class word."""
    return TEMPLATES[concept_mode].format(trigger=class_word) if class_word else ""


def through_trigger(text: str, trigger_word: str) -> str:
    """Return the text up to the end of the first trigger, or all of it without a trigger."""
    match = _whole_word(trigger_word).search(text)
    return text[: match.end()] if match else text


def has_trigger(text: str, trigger_word: str) -> bool:
    """Whether the text contains the trigger as a whole word. False for an empty trigger."""
    return bool(trigger_word) and _whole_word(trigger_word).search(text) is not None


def triggers_in(text: str, triggers: Iterable[str]) -> set[str]:
    """Return the triggers that the text contains as whole words. Longer ones match first: "my-robot" has no "robot"."""
    longest_first = sorted(filter(None, triggers), key=len, reverse=True)
    if not longest_first:
        return set()
    return set(re.findall(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", text))


def with_trigger(text: str, trigger_word: str, class_word: str | None, concept_mode: str) -> str:
    """Insert the trigger into a caption.

    A caption with the trigger is unchanged, and other case ("tok") is corrected. The trigger is inserted before the
    class word, or in face mode before a word for a person: "a dog on grass" → "a TOK dog on grass". Otherwise it
    becomes "…, in the style of TOK" for a style, and "TOK, …" for other concepts.
    """
    if has_trigger(text, trigger_word):
        return text
    if not text:
        return template(concept_mode, trigger_word, class_word)
    if _whole_word(trigger_word, re.IGNORECASE).search(text):
        return _whole_word(trigger_word, re.IGNORECASE).sub(lambda _: trigger_word, text)
    if concept_mode == "style":
        return f"{text}, in the style of {trigger_word}"
    nouns = [class_word] if class_word else list(PEOPLE) if concept_mode == "face" else []
    matches = [match for noun in nouns if (match := _whole_word(noun, re.IGNORECASE).search(text))]
    if matches:
        start = min(match.start() for match in matches)
        return f"{text[:start]}{trigger_word} {text[start:]}"
    return f"{trigger_word}, {text}"


def with_trigger_in_front(text: str, trigger_word: str, concept_mode: str) -> str:
    """Insert the trigger at the beginning, for captions that exceed the token limit."""
    return f"in the style of {trigger_word}, {text}" if concept_mode == "style" else f"{trigger_word}, {text}"


def with_affixes(text: str, prefix: str, suffix: str) -> str:
    """Join prefix, caption and suffix with commas, except where they have punctuation of their own."""
    prefix, suffix = prefix.strip(), suffix.strip()
    if prefix and text:
        prefix += " " if prefix[-1] in MARKS else ", "
    begun = prefix + text
    if not begun or not suffix or suffix[0] in MARKS:
        return begun + suffix
    return f"{begun} {suffix}" if begun[-1] in MARKS else f"{begun}, {suffix}"


def _whole_word(word: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", flags)
