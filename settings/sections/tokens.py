"""Placeholder tokens of the trigger words."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from settings.callers import Open
from settings.record import Settings

NEW_WORD = re.compile(r"\[[^\s\[\]]+\]|<(?!s\d+>)[^\s<>]+>")
"""[fernando] or <fernando>, but not <s0> etc., which are names of placeholder tokens."""


class WordConfig(Settings):
    """Words of captions that are trained, one token each: a new word, or known words by a regular expression."""

    word: Open[str] = Field(
        min_length=1,
        max_length=100,
        description="New word as written in captions, [fernando] or <fernando>; anything else is a regular expression "
        "for words that the base model knows, such as ^snail",
    )
    start: Open[str | None] = Field(
        None,
        min_length=1,
        max_length=100,
        description="For a new word: a regular expression; its embedding is initialised with the mean of the matching "
        "vocabulary entries, otherwise randomly",
    )

    @field_validator("word", "start")
    @classmethod
    def _an_expression(cls, pattern: str | None) -> str | None:
        return _compiled(pattern)

    @model_validator(mode="after")
    def _start_of_new_words(self) -> "WordConfig":
        if self.start is not None and not self.is_new:
            raise ValueError(
                f"start has no effect for {self.word}: known words start from their own embeddings; leave it out"
            )
        return self

    @property
    def is_new(self) -> bool:
        return NEW_WORD.fullmatch(self.word) is not None


class TokenSection(Settings):
    """Placeholder tokens: their number, initialisation and norm."""

    num_tokens: Open[int] = Field(
        2,
        ge=0,
        le=64,
        description="Number of new tokens in each text encoder for the trigger word; 0: it is an ordinary word",
    )
    token_init: Open[Literal["words", "vocabulary", "random", "images"] | None] = Field(
        None,
        description="Initialisation of the tokens; by default from the class_word if there is one, otherwise random; "
        "images: from the training images, for base models with an image encoder",
    )
    token_init_words: Open[str | None] = Field(
        None,
        min_length=1,
        max_length=200,
        description="Initialise from these words, one per token, instead of class_word",
    )
    token_init_pattern: Open[str | None] = Field(
        None,
        min_length=1,
        max_length=100,
        description="With token_init vocabulary: a regular expression; tokens are initialised with the mean of the "
        "matching vocabulary entries, such as ^(dog|cat)</w>",
    )
    train_existing_tokens: Open[bool] = Field(
        False, description="The trigger_word is a word that the base model knows, and its embedding is trained further"
    )
    train_tokens: Open[tuple[WordConfig, ...]] = Field(
        (),
        max_length=16,
        description='Words of captions that are trained if trigger_word is "", one token each, with word and start: '
        "new words, and words that the base model knows",
    )
    token_retraction: Open[float] = Field(
        0.0,
        ge=0,
        le=1,
        description="Scales tokens towards the vocabulary's norm after each step; 0: off, 0.1: weak, 1: completely",
    )

    @field_validator("token_init_pattern")
    @classmethod
    def _a_regular_expression(cls, pattern: str | None) -> str | None:
        return _compiled(pattern)

    @model_validator(mode="after")
    def _token_rules(self) -> "TokenSection":
        rules = (
            (self.token_init == "vocabulary" and self.token_init_pattern is None,
             "token_init: vocabulary needs a token_init_pattern, such as ^dog</w>"),
            (self.token_init_pattern is not None and self.token_init != "vocabulary",
             "token_init_pattern has no effect without token_init: vocabulary"),
            (self.token_init_words is not None and self.token_init not in (None, "words", "images"),
             f"token_init_words has no effect with token_init: {self.token_init}; leave one out"),
            (self.train_existing_tokens and (self.token_init is not None or self.token_init_words is not None),
             "token_init and token_init_words have no effect with train_existing_tokens; leave one out"),
            (self.train_existing_tokens and "num_tokens" in self.model_fields_set and self.num_tokens != 1,
             "num_tokens has no effect with train_existing_tokens: the word has one token; leave it out"),
            (bool(self.train_tokens) and (self.token_init is not None or self.token_init_words is not None),
             "token_init and token_init_words have no effect with train_tokens; set start of each word"),
            (bool(self.train_tokens) and self.train_existing_tokens,
             "train_existing_tokens has no effect with train_tokens; list the word there, or leave one out"),
        )  # fmt: skip
        for broken, message in rules:
            if broken:
                raise ValueError(message)
        return self


def _compiled(pattern: str | None) -> str | None:
    """Return the pattern unchanged. Raises ValueError if it is not a regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return pattern
