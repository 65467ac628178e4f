"""As many images at once as the memory holds."""

import gc
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from sampler.request import RequestError


def draw_in_batches(seeds: Sequence[int], draw: Callable[[Sequence[int]], list[Image.Image]]) -> list[Image.Image]:
    """Draw one image a seed, all at once; whenever the GPU's memory does not suffice, half as many at once.

    Every image has its own generator, so the batches change nothing but the time. Raises RequestError when not even one
    image fits.
    """
    images: list[Image.Image] = []
    size = len(seeds)
    while len(images) < len(seeds):
        batch = seeds[len(images) : len(images) + size]
        try:
            images += draw(batch)
            continue
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise RequestError(
                    "the GPU's memory does not hold one image of this size. Lower width and height."
                ) from None
        gc.collect()  # outside the handler: the error's frames hold the tensors
        torch.cuda.empty_cache()
        size = (len(batch) + 1) // 2
    return images
