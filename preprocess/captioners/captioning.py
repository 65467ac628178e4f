"""Captions for many pictures: from the cache where they are known, from the model for the rest."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from PIL import Image

from preprocess.captioners.cache import CaptionCache, pixel_digest
from preprocess.captioners.captioner import BATCH_SIZE, Captioner
from preprocess.captioners.choice import CaptionerChoice


def caption_images(
    images: Iterable[tuple[str, Image.Image]],
    choice: CaptionerChoice,
    load: Callable[[], Captioner],
    cache: CaptionCache,
) -> Iterator[tuple[str, str]]:
    """The caption of each named RGB picture, in their order, as the model worded it; "" where it said nothing.

    `images` is gone through once, and only two batches of its pictures are held at a time, so it may decode as it goes.
    `load` is called at the first picture that is not in the cache, so never when all are; what it loaded is let go at
    the end. Raises CaptionerError; what was captioned before stays in the cache.
    """
    with loaded_on_use(load) as captioner:
        for pictures in batched(images, BATCH_SIZE):
            digests = [pixel_digest(image) for _, image in pictures]
            known = {digest: cache.read(digest, choice.model_id, choice.prompt) for digest in digests}
            new = {digest: image for digest, (_, image) in zip(digests, pictures, strict=True) if known[digest] is None}
            if new:
                for digest, text in zip(new, captioner().caption(list(new.values())), strict=True):
                    cache.write(digest, choice.model_id, choice.prompt, text)
                    known[digest] = text
            yield from ((name, known[digest] or "") for digest, (name, _) in zip(digests, pictures, strict=True))


def batched(images: Iterable[tuple[str, Image.Image]], size: int) -> Iterator[list[tuple[str, Image.Image]]]:
    """`size` at a time, the last batch what is left."""
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch


@contextmanager
def loaded_on_use(load: Callable[[], Captioner]) -> Iterator[Callable[[], Captioner]]:
    """Gives a function that loads the captioner when first called. Its memory is free again after the block."""
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
