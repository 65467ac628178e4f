"""The blocks that a denoiser is made of."""

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


def blocks_apart(denoiser: Any) -> list[nn.Module]:
    """Return the blocks that can be stored separately: the repeated ones, and the smallest of those that diffusers
    never splits, such as a UNet's residual blocks. Together they contain most weights. Raises ValueError when there are
    none."""
    names = {type(block).__name__ for block in repeated_blocks(denoiser)} | set(denoiser._no_split_modules or ())
    found = [module for module in denoiser.modules() if type(module).__name__ in names]
    return [block for block in found if not any(type(part).__name__ in names for part in _inside(block))]


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if part is not module)
