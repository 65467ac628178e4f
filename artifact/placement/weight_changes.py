"""Changes weights of a base by layers of any kind, and restores the original tensors."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from artifact.layers import FullLayer, Layer


class WeightChanges:
    """Weights (and biases) with Σ scale · delta added, where each delta is computed from the base's own weight."""

    def __init__(self, changes: Sequence[tuple[str, Any, Sequence[tuple[int, Layer]]]]) -> None:
        """`changes`: a name, the module, and its layers, each with the number of its file."""
        self._changes = list(changes)
        self._originals: list[tuple[nn.Parameter, nn.Parameter | None]] = [
            (module.weight, getattr(module, "bias", None)) for _, module, _ in self._changes
        ]

    @torch.no_grad()
    def apply(self, scales: Sequence[float]) -> None:
        """Set the changed weights. `scales` by the number of the file."""
        for (name, module, layers), (weight, bias) in zip(self._changes, self._originals, strict=True):
            change = sum((scales[number] * layer.delta(weight.data) for number, layer in layers), torch.tensor(0.0))
            module.weight = _frozen(_rounded(weight.data.float() + change.to(weight.device), weight.dtype, name))
            moved = [
                scales[number] * layer.diff_bias.to(weight.device).float()
                for number, layer in layers
                if isinstance(layer, FullLayer) and layer.diff_bias is not None
            ]
            if moved and bias is not None:
                module.bias = _frozen(_rounded(bias.data.float() + torch.stack(moved).sum(0), bias.dtype, name))

    def undo(self) -> None:
        """Restore the original parameter objects."""
        for (_, module, _), (weight, bias) in zip(self._changes, self._originals, strict=True):
            module.weight, module.bias = weight, bias


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _rounded(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Round `value` to `dtype`: to nearest, but stochastically in bf16, seeded by `name`.

    A change of less than half a step of bf16 (0.2 to 0.4 % of the weight, typical for LoRAs) would always be rounded
    away. With stochastic rounding it is kept in the mean.
    """
    if dtype != torch.bfloat16:
        return value.to(dtype)
    generator = torch.Generator(value.device).manual_seed(zlib.crc32(name.encode()))
    bits = value.float().contiguous().view(torch.int32)
    chance = torch.randint(1 << 16, bits.shape, generator=generator, device=value.device, dtype=torch.int32)
    return ((bits + chance) & -(1 << 16)).view(torch.float32).to(dtype)
