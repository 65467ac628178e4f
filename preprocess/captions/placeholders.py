"""Fills placeholders of other trainers in captions: [trigger], {trigger}, <trigger>, and those of the class word."""

import re

NAMES = (
    r"trigger(?:[ _-]?words?|s)?|tokens?|(?:instance|concept|subject|placeholder)(?:[ _-]?(?:token|word|name|prompt))?"
    r"|activation[ _-]?(?:token|word|tag)|keyword|name"
)
CLASS_NAMES = r"class(?:[ _-]?(?:token|word|name|prompt))?"
BRACKETS = ((r"\[+", r"\]+"), (r"\{+", r"\}+"), ("<+", ">+"), ("__", "__"), ("%+", "%+"))


def _within_brackets(names: str) -> str:
    bracketed = "|".join(rf"{opened}\s*(?:{names})\s*{closed}" for opened, closed in BRACKETS)
    return rf"{bracketed}|\$(?:{names})\b\$?"


TRIGGER_PLACE = re.compile(rf"{_within_brackets(NAMES)}|\{{\}}", re.IGNORECASE)
"""`{}` is the placeholder in the templates of textual inversion (Gal et al. 2022)."""
CLASS_PLACE = re.compile(_within_brackets(CLASS_NAMES), re.IGNORECASE)


def fill_places(text: str, trigger_word: str | None, class_word: str | None) -> str:
    """Replace placeholders by the trigger word and the class word, or remove them where these are None.

    The trigger in brackets, "[TOK]", is a placeholder too, unless the brackets are part of the trigger.
    """
    filled = TRIGGER_PLACE.sub(lambda _: trigger_word or "", text)
    filled = CLASS_PLACE.sub(lambda _: class_word or "", filled)
    if trigger_word and trigger_word[0].isalnum():
        word = re.escape(trigger_word)
        filled = re.sub(rf"\[\s*{word}\s*\]|\{{\s*{word}\s*\}}|<\s*{word}\s*>", lambda _: trigger_word, filled)
    return text if filled == text else re.sub(r" {2,}", " ", filled).strip()
