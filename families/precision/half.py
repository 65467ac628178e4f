"""Families whose values exceed the range of fp16 (65,504)."""

from typing import Protocol, runtime_checkable

from families.family import ModelFamily, clip_reader


@runtime_checkable
class OverflowsInHalf(Protocol):
    """A family whose denoiser overflows in fp16."""

    fp16_overflow: str
    """The reason, as a clause."""


def overflow_in_half(family: ModelFamily) -> str | None:
    """The reason why this base cannot be trained in fp16; None if it can."""
    if isinstance(family, OverflowsInHalf):
        return family.fp16_overflow
    if clip_reader(family) is not None:
        return None
    return f"prompts of this base model ({family.name}) are encoded by language models, whose states overflow in fp16"
