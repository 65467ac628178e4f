"""Generates as many images at once as memory allows."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from PIL import Image

from sampler.request import RequestError

Row = TypeVar("Row")
MOST_AT_ONCE = 16
"""Larger batches save no time, and on a CPU running out of memory raises no exception that could be caught."""


def draw_in_batches(
    rows: Sequence[Row], draw: Callable[[Sequence[Row]], list[Image.Image]]
) -> Iterator[tuple[Row, Image.Image]]:
    """Yield each row with its image. Batches are halved whenever the GPU's memory is not sufficient.

    Every image has its own generator, so batching changes only the time. Raises RequestError when not even one image
    fits.
    """
    done, size = 0, min(len(rows), MOST_AT_ONCE)
    while done < len(rows):
        batch = rows[done : done + size]
        try:
            images = draw(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise RequestError(
                    "the GPU's memory is too small for one image of this size. Lower width and height."
                ) from None
        else:
            yield from zip(batch, images, strict=True)
            done += len(batch)
            continue
        gc.collect()  # not in the handler: the traceback's frames hold the tensors
        torch.cuda.empty_cache()
        size = (len(batch) + 1) // 2
