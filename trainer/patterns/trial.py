"""Tries the regular expressions of a configuration before torch and the base are loaded.

Their matches are known only with the base. Their cost also shows on names like those of SDXL's layers and CLIP's
vocabulary, so a costly expression is refused within a second or two.
"""

from collections.abc import Iterator
from itertools import product

from settings.sections.adapter import AdapterSection
from settings.sections.tokens import TokenSection
from trainer.patterns.matching import matching

SYLLABLES = [consonant + vowel for consonant in "bdfklmnrst" for vowel in "aeio"][:37]
"""37 ** 3 words are about as many as in CLIP's vocabulary: 49,408."""


def require_patterns(adapter: AdapterSection, tokens: TokenSection) -> None:
    """Raises ConfigError for an invalid expression, or one that takes more than a second."""
    if adapter.lora_target_regex is not None:
        matching(adapter.lora_target_regex, list(_layers()), whole=True, setting="lora_target_regex")
    if tokens.token_init_pattern is not None:
        matching(tokens.token_init_pattern, list(_words()), whole=False, setting="token_init_pattern")


def _layers() -> Iterator[str]:
    """Yield paths of layers as in SDXL's UNet."""
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    for block, attention, depth in product(("down_blocks.2", "mid_block", "up_blocks.0"), range(3), range(10)):
        transformer = f"{block}.attentions.{attention}.transformer_blocks.{depth}"
        yield from (f"{transformer}.{kind}.{layer}" for kind in ("attn1", "attn2") for layer in layers)
        yield from (f"{transformer}.ff.net.{layer}" for layer in ("0.proj", "2"))


def _words() -> Iterator[str]:
    """Yield entries as in CLIP's vocabulary: whole words end in `</w>`."""
    return ("".join(parts) + "</w>" for parts in product(SYLLABLES, repeat=3))
