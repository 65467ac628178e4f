"""Speeds up the imports of torch, diffusers and transformers, which create half a million permanent objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from service.library_messages import hide_library_messages


@contextmanager
def quick_imports() -> Iterator[None]:
    """Disable the garbage collector inside this context, and freeze all existing objects afterwards. Otherwise it would
    scan them repeatedly, and once more at the end of the process (docs/performance.md)."""
    hide_library_messages()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
