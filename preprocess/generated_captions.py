"""Captions for the images that came without one. The captioner is loaded only when a picture is new to the cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from preprocess.caption_text import with_affixes
from preprocess.captions import Caption
from preprocess.config import DataConfig
from preprocess.images import DecodeRules, decode
from preprocess.intake import FoundFile
from preprocess.labels import MAX_TOKENS, TokenCounter
from preprocess.survey import Surveyed

NO_CAPTIONER = "none"
MOST_WORDS = 45
"""Of a generated caption, where no tokenizer is at hand: about 60 tokens."""
CACHE_VARIABLE = "CAPTION_CACHE"


def cache_folder() -> Path:
    """Where captions are remembered: the folder that CAPTION_CACHE names, else one in the user's cache folder."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-trainer" / "captions"
    return Path(os.environ.get(CACHE_VARIABLE) or usual)


def caption_missing(
    missing: Sequence[Surveyed], config: DataConfig, count_tokens: TokenCounter | None
) -> Iterator[tuple[FoundFile, Caption | None]]:
    """The captioner's caption of each image, None where it said nothing.

    Raises CaptionerError when the captioner cannot be had, or fails.
    """
    if config.captioner == NO_CAPTIONER or not missing:
        return
    from preprocess.captioners.cache import CaptionCache
    from preprocess.captioners.captioning import caption_images
    from preprocess.captioners.registry import choose_captioner
    from preprocess.captioners.wording import worded
    from preprocess.devices import best_device

    choice = choose_captioner(
        config.captioner, prompt=config.captioner_prompt, trust_remote_code=config.trust_remote_code
    )
    files = {item.file.name: item.file for item in missing}
    fits = _fits(config, count_tokens)
    rules = DecodeRules(config.min_image_side, config.max_image_pixels, config.transparency)
    cache = CaptionCache(cache_folder())
    for name, text in caption_images(_pictures(missing, rules), choice, lambda: choice.load(best_device()), cache):
        words = worded(text, fits)
        yield files[name], Caption(words, config.captioner) if words else None


def _pictures(missing: Sequence[Surveyed], rules: DecodeRules) -> Iterator[tuple[str, Image.Image]]:
    """Decoded one after the other: they need not all fit into memory."""
    for item in missing:
        yield item.file.name, decode(item.file.path, rules).image


def _fits(config: DataConfig, count_tokens: TokenCounter | None) -> Callable[[str], bool]:
    """Whether the caption will still be read whole once the trigger and the affixes are in it."""
    if count_tokens is None:
        return lambda text: len(text.split()) <= MOST_WORDS
    trigger = config.all_concepts[0].trigger_word

    def fits(text: str) -> bool:
        longest = with_affixes(f"{text}, in the style of {trigger}", config.caption_prefix, config.caption_suffix)
        return count_tokens(longest) <= MAX_TOKENS

    return fits
