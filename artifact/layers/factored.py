"""Shared by factored layers: the scale alpha / rank, and products of factors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.layer import Layer, require_known

ALPHA = "alpha"


@dataclass(frozen=True)
class FactoredLayer(Layer):
    """A layer whose fields are its tensors and `alpha`. Its change is scaled by alpha / rank."""

    def __post_init__(self) -> None:
        self._check()
        if self.rank is not None and self.rank < 1:
            raise ArtifactError(f"has rank {self.rank}")
        if not math.isfinite(self.scale):
            raise ArtifactError("has an alpha that is not finite")

    def _check(self) -> None:
        """Raises ArtifactError when the shapes of the tensors are inconsistent."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [value for name in self.keys.values() if (value := getattr(self, name)) is not None]

    @property
    def scale(self) -> float:
        """alpha / rank; 1 where the layer has no rank."""
        alpha: float = getattr(self, ALPHA)
        return alpha / self.rank if self.rank else 1.0

    def tensors(self) -> dict[str, Tensor]:
        found = {key: value for key, name in self.keys.items() if (value := getattr(self, name)) is not None}
        return found | {ALPHA: torch.tensor(getattr(self, ALPHA), dtype=torch.float32)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build the layer from a file's tensors. Without alpha, alpha = rank, as in all tools."""
        require_known(tensors, {*cls.keys, ALPHA})
        optional = {field.name for field in fields(cls) if field.default is None}
        missing = [key for key, name in cls.keys.items() if name not in optional and key not in tensors]
        if missing:
            raise ArtifactError(f"lacks {missing[0]}")
        values = {name: tensors.get(key) for key, name in cls.keys.items()}
        alpha = _scalar(tensors[ALPHA]) if ALPHA in tensors else None
        layer: Self = cls(**values, alpha=1.0 if alpha is None else alpha)  # type: ignore[call-arg]  # of subclasses
        return layer if alpha is not None else replace(layer, alpha=float(layer.rank or 1))  # type: ignore[call-arg]


def product(a: Tensor, b: Tensor, core: Tensor | None, device: torch.device) -> Tensor:
    """Return a · b, or with a core their Tucker product, in fp32 on `device`."""
    a, b = a.to(device).float(), b.to(device).float()
    return a @ b if core is None else tucker(core.to(device).float(), a, b)


def require_product(name: str, a: Tensor, b: Tensor, core: Tensor | None) -> None:
    """Raises ArtifactError when the shapes do not allow `product`."""
    inner = a.shape[1 if core is None else 0] if a.ndim == b.ndim == 2 else None
    if inner is None or inner != b.shape[0]:
        raise ArtifactError(f"has {name} of shapes {tuple(a.shape)} and {tuple(b.shape)}, which cannot be multiplied")
    if core is not None and (core.ndim != 4 or core.shape[:2] != (inner, inner)):
        raise ArtifactError(f"has {name} with a core of shape {tuple(core.shape)}, but its rank is {inner}")


def tucker(core: Tensor, out_factor: Tensor, in_factor: Tensor) -> Tensor:
    """Tucker product: core (r, r, kh, kw), out_factor (r, out), in_factor (r, in) → (out, in, kh, kw)."""
    return torch.einsum("ij...,io,jn->on...", core, out_factor, in_factor)


def _scalar(tensor: Tensor) -> float:
    if tensor.numel() != 1:
        raise ArtifactError(f"has an alpha of shape {tuple(tensor.shape)}, which must be one number")
    return float(tensor)
