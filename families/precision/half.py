"""Families that cannot compute in fp16, whose largest number is 65,504."""

from typing import Protocol, runtime_checkable

from families.family import ModelFamily, clip_reader


@runtime_checkable
class OverflowsInHalf(Protocol):
    """A family whose denoiser is not made for fp16."""

    fp16_overflow: str
    """Why, as a clause."""


def overflow_in_half(family: ModelFamily) -> str | None:
    """Why this base cannot be trained in fp16; None where it can."""
    if isinstance(family, OverflowsInHalf):
        return family.fp16_overflow
    if clip_reader(family) is not None:
        return None
    return f"language models read the prompts of this base ({family.name}), and their states overflow in fp16"
