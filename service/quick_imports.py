"""Imports of torch, diffusers and transformers: half a million objects that live as long as the process."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from service.library_messages import hide_library_messages


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, the garbage collector is off; afterwards it never looks at what was there. It would go through all of it
    again and again, and once more at the end of the process (docs/performance.md)."""
    hide_library_messages()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
