"""Generates as many images at once as memory allows."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from PIL import Image

from sampler.request import RequestError

Row = TypeVar("Row")
MOST_AT_ONCE = 16
"""More at once gain no time, and a CPU has no error of memory that could be caught."""


def draw_in_batches(
    rows: Sequence[Row], draw: Callable[[Sequence[Row]], list[Image.Image]]
) -> Iterator[tuple[Row, Image.Image]]:
    """Draw one image a row, many at once; whenever the GPU's memory does not suffice, half as many at once.

    Every image has its own generator, so the batches change nothing but the time. Raises RequestError when not even one
    image fits.
    """
    done, size = 0, min(len(rows), MOST_AT_ONCE)
    while done < len(rows):
        batch = rows[done : done + size]
        try:
            images = draw(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise RequestError(
                    "the GPU's memory does not hold one image of this size. Lower width and height."
                ) from None
        else:
            yield from zip(batch, images, strict=True)
            done += len(batch)
            continue
        gc.collect()  # outside the handler: the error's frames hold the tensors
        torch.cuda.empty_cache()
        size = (len(batch) + 1) // 2
