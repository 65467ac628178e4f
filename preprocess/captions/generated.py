"""Generates captions for images without one. The captioner is loaded only when an image is not in the cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from preprocess.captions.labels import MAX_TOKENS, TokenCounter
from preprocess.captions.pairing import Caption
from preprocess.captions.trigger import with_affixes
from preprocess.uploads.collect import decode_rules
from preprocess.uploads.decoding import DecodeRules, decode
from preprocess.uploads.intake import FoundFile
from preprocess.uploads.survey import Surveyed
from preprocess.workers.workers import Work, Workers
from settings.preparation import DataConfig
from settings.public import public_name

if TYPE_CHECKING:
    from preprocess.captioners.captioner import Captioner
    from preprocess.captioners.choice import CaptionerChoice

NO_CAPTIONER = "none"
MOST_WORDS = 45
"""Longest generated caption where no tokenizer is known: 45 words are about 60 tokens."""
CACHE_VARIABLE = "CAPTION_CACHE"


def cache_folder() -> Path:
    """Return the cache folder of captions: CAPTION_CACHE, else a folder in the user's cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora-trainer" / "captions"


def caption_missing(
    missing: Sequence[Surveyed],
    config: DataConfig,
    count_tokens: TokenCounter | None,
    workers: Workers,
    most: int = MAX_TOKENS,
) -> Iterator[tuple[FoundFile, Caption | None]]:
    """Yield the generated caption of each image, None for an empty one. Equal images are captioned once. `most`: the
    tokens that a caption may have.

    The batches do not depend on the workers, since a caption may depend on its batch by rounding. Raises CaptionerError
    when the captioner cannot be loaded or fails.
    """
    if config.captioner == NO_CAPTIONER or not missing:
        return
    from preprocess.captioners.captioner import BATCH_SIZE
    from preprocess.captioners.registry import choose_captioner
    from preprocess.captioners.wording import worded

    choice = choose_captioner(
        config.captioner, prompt=config.captioner_prompt, trust_remote_code=config.trust_remote_code
    )
    fits = _fits(config, count_tokens, most)
    alike: dict[str, list[FoundFile]] = {}
    for item in missing:
        alike.setdefault(item.fingerprint.exact, []).append(item.file)
    pictures = list(alike.values())
    batches = [pictures[start : start + BATCH_SIZE] for start in range(0, len(pictures), BATCH_SIZE)]
    open_in_worker = partial(_captioner_at_work, choice, decode_rules(config))
    with open_in_worker() as function:
        shown = [[files[0].path for files in batch] for batch in batches]
        answers = workers.map(Work(function, open_in_worker), shown, num_workers=0)
        for batch, texts in zip(batches, answers, strict=True):
            for files, text in zip(batch, texts, strict=True):
                words = worded(text, fits)
                for file in files:
                    yield file, Caption(words, public_name(config.captioner)) if words else None


@contextmanager
def _captioner_at_work(
    choice: "CaptionerChoice", rules: DecodeRules
) -> Iterator[Callable[[Sequence[Path]], list[str]]]:
    """Yield a function that captions a batch of image files. The model is loaded on first use and freed at the end."""
    from preprocess.captioners.cache import CaptionCache
    from preprocess.captioners.captioning import caption_batch, loaded_on_use

    cache = CaptionCache(cache_folder())
    with loaded_on_use(lambda: _load(choice)) as captioner:
        yield lambda paths: caption_batch([decode(path, rules).image for path in paths], choice, captioner, cache)


def _load(choice: "CaptionerChoice") -> "Captioner":
    """Load the captioner. Its imports are deferred until an image is not in the cache."""
    from preprocess.captioners.kinds import load_captioner
    from preprocess.workers.devices import best_device

    return load_captioner(choice, best_device())


def _fits(config: DataConfig, count_tokens: TokenCounter | None, most: int) -> Callable[[str], bool]:
    """Return a predicate for captions that fit the token limit with affixes and the longest of the trigger words."""
    if count_tokens is None:
        return lambda text: len(text.split()) <= MOST_WORDS
    trigger = max((concept.trigger_word for concept in config.all_concepts), key=count_tokens)

    def fits(text: str) -> bool:
        whole = f"{text}, in the style of {trigger}" if trigger else text
        longest = with_affixes(whole, config.caption_prefix, config.caption_suffix)
        return count_tokens(longest) <= most

    return fits
