"""The repeated blocks of a denoiser."""

from collections.abc import Iterator
from typing import Any

from torch import nn


def repeated_blocks(denoiser: Any) -> Iterator[nn.Module]:
    """Yield the blocks that diffusers lists as repeated. Raises ValueError when there are none."""
    names = denoiser._repeated_blocks or [name for name in denoiser._no_split_modules or () if "Transformer" in name]
    blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(f"{type(denoiser).__name__} has no repeated blocks")
    yield from blocks
