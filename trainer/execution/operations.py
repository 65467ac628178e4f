"""Counts the floating-point operations of passes, with torch's counter."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = torch.Size


class OperationCount(TorchDispatchMode):
    """Counts matrix products, convolutions and attention in `total`, a multiplication and an addition as two. It does
    not need values. It uses torch's formulas without the module hooks of torch's counter, which keep tensors that
    gradient checkpointing frees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._formulas = _formulas()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        found = func(*args, **given)
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **given, out_val=found)
        return found


def _formulas() -> Mapping[Any, Callable[..., int]]:
    """torch's formulas, by operation. torch 2.13 has none for the CPU's attention, which is used for tensors without
    values."""
    return FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        },
    ).flop_registry


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """The scores are recomputed, so there are five products instead of two."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))
