"""Settings of the concepts: what the images show, and the words for it."""

import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from settings.callers import Limited, Open, Operator
from settings.record import Settings

ConceptMode = Literal["face", "object", "style"]

CAPTION_WORDS = frozenset({"a", "in", "of", "photo", "picture", "style", "the"})
"""Words of the default captions. A trigger word may not be one of them: it would occur in captions of other images."""
SIGNS = ',=|{}()[]"'
"""Characters with a meaning in lists, token strengths, prompt weights and captions with alternatives."""
TOKEN_NAMES = re.compile(r"<(s\d+|/?s|pad|unk|mask|bos|eos)>")
"""Placeholder tokens, and special tokens of tokenizers."""
JOINERS = "\u200c\u200d"
"""Invisible characters that scripts and emoji need between letters."""


class _Words(Settings):
    """Validation of trigger_word and class_word, for a single concept and for each of several."""

    @field_validator("trigger_word", check_fields=False)
    @classmethod
    def _a_single_word(cls, trigger_word: str) -> str:
        return require_single_word(unicodedata.normalize("NFC", trigger_word))  # as captions are

    @field_validator("class_word", mode="before", check_fields=False)
    @classmethod
    def _blank_is_none(cls, text: Any) -> Any:
        return stripped_or_none(text)


class ConceptConfig(_Words):
    """One of several concepts. An image belongs to the concept whose folder contains it, otherwise to the one whose
    trigger word its caption contains."""

    trigger_word: Open[str] = Field(
        max_length=64, description='The new word for this concept; "": none, its captions are trained as they are'
    )
    class_word: Open[str | None] = Field(None, max_length=64, description="What kind of thing it is")
    folder: Open[str | None] = Field(None, min_length=1, description="Folder of its images inside the data")
    repeats: Open[int] = Field(1, ge=1, le=1000, description="How often each of its images is seen in an epoch")


class ConceptSection(_Words):
    """What the images show, and the words for it."""

    concept_mode: Open[ConceptMode] = Field("object", description="What the images show")
    trigger_word: Open[str] = Field(
        "TOK",
        max_length=64,
        description='New word for the concept in prompts; inserted into captions that do not contain it. With "", the '
        "default with control, captions are trained as they are",
    )
    class_word: Open[str | None] = Field(
        None,
        max_length=64,
        description="Class of the concept (dog, woman, watercolour): initialises the new tokens, and is used in "
        "default captions",
    )
    concepts: Limited[tuple[ConceptConfig, ...]] = Field(
        (),
        description="Several concepts in one run, instead of trigger_word and class_word, each with trigger_word, "
        "class_word, folder, repeats",
    )
    balance_concepts: Open[bool] = Field(
        True, description="Repeat images so that all concepts are trained about equally often"
    )
    preservation_data: Operator[Path | None] = Field(
        None,
        description="Zip, tar or folder of images without the concept (for example of its class) that preserve the "
        "base model's prior",
    )
    preservation_weight: Open[float] = Field(
        1.0, gt=0, le=100, description="Weight of the preservation images in the loss"
    )

    @property
    def class_words(self) -> dict[str, str | None]:
        """The class word of each concept that has a trigger word, by trigger word; None where none is given."""
        return {each.trigger_word: each.class_word for each in self.all_concepts if each.trigger_word}

    def trigger_in(self, prompt: str) -> str | None:
        """Return the first trigger word that the prompt contains as a whole word (case-sensitive), or None."""
        triggers = self.class_words
        return next((word for word in triggers if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt)), None)

    @property
    def has_preservation_set(self) -> bool:
        """Whether there is a preservation set: images without the concept."""
        return self.preservation_data is not None

    @property
    def all_concepts(self) -> tuple[ConceptConfig, ...]:
        """The concepts of the run: the listed ones, or the one of trigger_word and class_word."""
        return self.concepts or (
            ConceptConfig(trigger_word=self.trigger_word, class_word=self.class_word, folder=None, repeats=1),
        )


def stripped_or_none(text: Any) -> Any:
    """Return a text in Unicode form NFC, as captions, and without surrounding white space; None for an empty text, and
    any other value unchanged."""
    return unicodedata.normalize("NFC", text).strip() or None if isinstance(text, str) else text


def require_single_word(trigger_word: str) -> str:
    """Raises ValueError for a trigger word that contains white space, invisible characters or reserved characters, or
    that is punctuation, the name of a token, or a word of the default captions."""
    if any(character.isspace() for character in trigger_word):
        raise ValueError("must be one word without spaces, such as TOK or my-robot")
    kinds = [unicodedata.category(character) for character in trigger_word if character not in JOINERS]
    if any(kind.startswith("C") and kind != "Cn" for kind in kinds):
        raise ValueError(
            "contains an invisible character, which every prompt would have to contain; type the word again"
        )
    if trigger_word and all(kind.startswith("P") for kind in kinds):
        raise ValueError("is punctuation only, which other captions contain too; use a word with letters, such as TOK")
    if signs := sorted(set(trigger_word) & set(SIGNS)):
        raise ValueError(f"contains {' '.join(signs)}, which is reserved in prompts and captions; leave it out")
    if TOKEN_NAMES.fullmatch(trigger_word):
        raise ValueError("is a token name of the text encoders; choose a new word, such as TOK or <my-robot>")
    if trigger_word.casefold() in CAPTION_WORDS:
        raise ValueError("is a word of the default captions of other images; choose a new word, such as TOK")
    return trigger_word


def require_other_class_word(concept: ConceptConfig) -> None:
    """Raises ValueError for a class word that is the trigger word."""
    if concept.class_word and concept.trigger_word.casefold() == concept.class_word.casefold():
        raise ValueError(
            f"class_word: {concept.class_word} is also the trigger_word; choose a new trigger_word, such as TOK, or "
            "leave class_word out"
        )
