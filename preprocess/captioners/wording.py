"""Cleans the output of a captioner: removes preambles and repetitions, and shortens it to fit."""

import re
from collections.abc import Callable
from itertools import pairwise

QUOTES = str.maketrans("‘’‚‛“”„‟′″«»‐‑‒–—…", '\'\'\'\'""""\'"""-----.')
MARKUP = re.compile(r"[*`]+|^\s*#+\s")
NONSENSE = re.compile(r"\baraff?(?:e|ed)?\s", re.IGNORECASE)  # a meaningless word that BLIP often generates
PICTURE = r"(?:image|picture|photo|photograph)"
NOUN_FOLLOWS = r"(?= (?:an?|the|one|two|three|several|some|many)\b)"
SHOWS = (
    r"(?:shows|depicts|features|displays|captures|presents|portrays|contains|showcases|illustrates|is showing"
    rf"|is of|is{NOUN_FOLLOWS})"
)
OPENING = re.compile(
    r"(?:"
    r"(?:here(?:'s| is) )?(?:a |the )?(?:caption|description)[^:.]{0,40}:"
    rf"|(?:this|the|an?) {PICTURE} {SHOWS}"
    rf"|in (?:this|the) {PICTURE}(?:,? (?:(?:we|you|one) (?:can )?see|there (?:is|are))|,)"
    rf"|(?:this|it|there) is{NOUN_FOLLOWS}"
    r"|there are|(?:we|you) can see"
    rf"|(?:an? |the )?(?:image|picture|close[- ]?up(?: (?:view|shot|{PICTURE}))?) of"
    r")(?!\w)[\s,:.]*",
    re.IGNORECASE,
)
ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st", "vs", "no", "jr", "sr", "ft", "approx", "etc"}
INITIALS = re.compile(r"(?:[a-z]\.)*[a-z]")
SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*$")
LOOSE_END = re.compile(
    r"(?:(?:^| )(?:an?|the|of|in|on|at|to|by|for|from|with|without|and|or|but|as|is|are|was|were|that|which|who|while"
    r"|its|his|her|their|this|into|over|under|near|against|behind|beside|between)\b|[ ,;:-])+$",
    re.IGNORECASE,
)


def at_most_words(count: int) -> Callable[[str], bool]:
    """Return a predicate for texts of at most `count` words."""
    return lambda text: len(text.split()) <= count


def worded(text: str, fits: Callable[[str], bool]) -> str:
    """Return the cleaned caption: never longer than `text`, and unchanged when cleaned again. "" when nothing is left.

    It is cut to as many whole sentences as `fits` allows; a first sentence that is too long is cut to as many words.
    """
    while (shorter := _once(text, fits)) != text:
        text = shorter
    return text


def _once(text: str, fits: Callable[[str], bool]) -> str:
    return shortened(without_unfinished(without_repeats(without_opening(tidied(text)))), fits)


def tidied(text: str) -> str:
    """Normalise a text: one line, single spaces, ASCII quotes and dashes, no Markdown, no space before punctuation."""
    plain = NONSENSE.sub("", MARKUP.sub(" ", text.translate(QUOTES)))
    return re.sub(r" (?=[,;:!?.](?: |$))", "", re.sub(r"\s+", " ", plain)).strip()


def without_opening(text: str) -> str:
    """Remove openings that only announce an image: "The image shows a dog" → "a dog"."""
    while match := OPENING.match(text):
        text = text[match.end() :]
    return text


def without_repeats(text: str) -> str:
    """Remove immediate repetitions: "a dog a dog a dog on grass" → "a dog on grass"."""
    words = text.split()
    position = 0
    while position < len(words):
        repeated = _repeated(words, position)
        del words[position : position + repeated]
        position += not repeated
    return " ".join(words)


def _repeated(words: list[str], start: int) -> int:
    """Return how many words from `start` are repeated immediately, 0 for none."""
    for length in range((len(words) - start) // 2, 0, -1):
        first, second = words[start : start + length], words[start + length : start + 2 * length]
        begins = start == 0 or ends_sentence(words[start - 1])
        same = all(_bare(one) == _bare(other) for one, other in zip(first, second, strict=True))
        if same and _stutters(first, second, begins):
            return length
    return 0


def _stutters(first: list[str], second: list[str], begins_sentence: bool) -> bool:
    """Whether the words are a repetition. One across a full stop is not ("He has a cat. A cat …"), unless it is a whole
    sentence."""
    if not any(map(ends_sentence, first)):
        return True
    return begins_sentence and ends_sentence(first[-1]) and ends_sentence(second[-1])


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()[]").lower() or word


def ends_sentence(word: str) -> bool:
    """Whether a sentence may end with this word: "dog." and "dog!", but not "1.5", "U.S." or "Dr."."""
    if not (end := SENTENCE_END.search(word)):
        return False
    stem = word[: end.start()].lstrip("\"'([").lower()
    return not end.group().startswith(".") or not (INITIALS.fullmatch(stem) or stem in ABBREVIATIONS)


def whole_sentences(words: list[str]) -> list[int]:
    """Return the numbers of words after which a sentence ends: five in 'He says "Stop!" to her. Then'.

    The last word needs only a full stop: "the U.S." ends a sentence there.
    """
    ends = [
        count
        for count, (word, following) in enumerate(pairwise(words), 1)
        if ends_sentence(word) and (word.endswith(".") or not following.lstrip("\"'([")[:1].islower())
    ]
    return [*ends, len(words)] if words and SENTENCE_END.search(words[-1]) else ends


def without_unfinished(text: str) -> str:
    """Remove a sentence that was cut off by the token limit, if a complete one precedes it."""
    words = text.split()
    ends = whole_sentences(words)
    return " ".join(words[: ends[-1]] if ends else words)


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Return the longest beginning of `text` that fits: whole sentences, or words where the first sentence is too
    long."""
    words = text.split()
    if fits(" ".join(words)):
        return " ".join(words)
    for count in reversed(whole_sentences(words)):
        if fits(sentences := " ".join(words[:count])):
            return sentences
    for count in range(len(words) - 1, 0, -1):
        if fits(beginning := LOOSE_END.sub("", " ".join(words[:count]))):
            return beginning
    return ""
