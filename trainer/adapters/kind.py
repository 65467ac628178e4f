"""What a kind of adapter is: how peft puts it beside a layer, and how one of its layers is written down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from artifact.layers import Layer

ADAPTER = "default"
"""peft's name for the adapter that is trained."""


def pefts_change(module: Any) -> Tensor:
    """ΔW of a module, as peft has it."""
    (adapter,) = module.active_adapters
    change: Tensor = module.get_delta_weight(adapter)
    return change


@dataclass(frozen=True)
class AdapterKind:
    """`config`: peft's, from rank, alpha and the paths. `layer`: what one of its modules is in a file.

    `module`: the class of its modules. `change`: ΔW of one of them, on its device. `in_base_precision`: it computes in
    the precision of the base, without autocast, though its parameters are fp32. `linear_only`: it cannot be put on
    convolutions. `opens`: a sentence for users where not every tool can open its file.
    """

    config: Callable[[int, float, Sequence[str]], Any]
    layer: Callable[[Any], Layer]
    module: type
    in_base_precision: bool = False
    linear_only: bool = False
    opens: str | None = None
    change: Callable[[Any], Tensor] = pefts_change
