"""The interface of an adapter kind: its peft configuration and its conversion to the layers of an artifact."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from artifact.layers import Layer

ADAPTER = "default"
"""peft's name for the trained adapter."""


def pefts_change(module: Any) -> Tensor:
    """Return ΔW of a module, as peft computes it."""
    (adapter,) = module.active_adapters
    change: Tensor = module.get_delta_weight(adapter)
    return change


@dataclass(frozen=True)
class AdapterKind:
    """One kind of adapter.

    `config`: builds peft's configuration from rank, alpha and paths. `layer`: converts a peft module to a layer of the
    artifact. `module`: the class of its peft modules. `in_base_precision`: whether the adapter computes in the
    precision of the base without autocast, although its parameters are fp32. `linear_only`: whether it cannot be added
    to convolutions. `opens`: a sentence for users about the tools that can open its file, None where all can. `change`:
    returns ΔW of a module, on its device.
    """

    config: Callable[[int, float, Sequence[str]], Any]
    layer: Callable[[Any], Layer]
    module: type
    in_base_precision: bool = False
    linear_only: bool = False
    opens: str | None = None
    change: Callable[[Any], Tensor] = pefts_change
