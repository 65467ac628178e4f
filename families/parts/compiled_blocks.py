"""Compiles the repeated blocks of a denoiser, for training and sampling: all blocks of a kind share one compilation.

Regional compilation takes seconds, that of the whole model takes minutes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from families.parts.blocks import repeated_blocks

MOST_VARIANTS = 64
"""Recompilations of one block: its widths, times shapes of pictures, times passes with and without gradient or
adapter."""
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class CompiledBlocks:
    """The compiled blocks of `denoiser`, including their adapters. Outside `in_use` the model runs uncompiled."""

    def __init__(self, denoiser: nn.Module, backend: str = "inductor", cache: Path | None = None) -> None:
        """`cache`: a folder for compiled code that persists between processes. Raises ValueError if the denoiser has no
        repeated blocks."""
        self._blocks: list[Any] = list(repeated_blocks(denoiser))
        if cache is not None:
            os.environ[CACHE_VARIABLE] = str(cache.resolve())
        torch._dynamo.config.recompile_limit = MOST_VARIANTS
        for block in self._blocks:
            block.compile(backend=backend)
        self._compiled = [block._compiled_call_impl for block in self._blocks]
        self._switch([None] * len(self._blocks))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the compiled blocks inside this context."""
        self._switch(self._compiled)
        try:
            yield
        finally:
            self._switch([None] * len(self._blocks))

    def _switch(self, calls: Sequence[Any]) -> None:
        for block, call in zip(self._blocks, calls, strict=True):
            block._compiled_call_impl = call
