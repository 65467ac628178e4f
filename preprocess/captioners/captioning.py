"""Captions many images: from the cache where possible, by the model otherwise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from PIL import Image

from preprocess.captioners.cache import CaptionCache, pixel_digest
from preprocess.captioners.captioner import Captioner
from preprocess.captioners.choice import CaptionerChoice


def caption_batch(
    pictures: Sequence[Image.Image], choice: CaptionerChoice, captioner: Callable[[], Captioner], cache: CaptionCache
) -> list[str]:
    """Return the caption of each RGB image, as the model generated it; "" for an empty answer.

    `captioner` is called only when an image is not in the cache. Raises CaptionerError.
    """
    digests = [pixel_digest(image) for image in pictures]
    known = {digest: cache.read(digest, choice.model_id, choice.prompt) for digest in digests}
    new = {digest: image for digest, image in zip(digests, pictures, strict=True) if known[digest] is None}
    if new:
        loaded = captioner()
        for digest, text in zip(new, loaded.caption(list(new.values())), strict=True):
            cache.write(digest, loaded.model_id, choice.prompt, text)
            known[digest] = text
    return [known[digest] or "" for digest in digests]


@contextmanager
def loaded_on_use(load: Callable[[], Captioner]) -> Iterator[Callable[[], Captioner]]:
    """Yield a function that loads the captioner on its first call. Its memory is freed at the end of the context."""
    loaded: list[Captioner] = []

    def captioner() -> Captioner:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    try:
        yield captioner
    finally:
        if loaded:
            from preprocess.captioners.generation import free_memory

            loaded.clear()
            free_memory()
