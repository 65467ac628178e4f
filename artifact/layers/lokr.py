"""LoKr: the Kronecker product of two small matrices."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.factored import FactoredLayer, product, require_product


@dataclass(frozen=True)
class LokrLayer(FactoredLayer):
    """ΔW = scale · w1 ⊗ w2, LyCORIS' LoKr. Each factor is a full matrix, or a product of two of rank r.

    w1: (a, c), or w1_a (a, r) and w1_b (r, c). w2: (b, d[, kh, kw]), or w2_a (b, r) and w2_b (r, d·kh·kw), or a Tucker
    product of `t2` (r, r, kh, kw), w2_a (r, b) and w2_b (r, d). out = a·b, in = c·d. The scale is alpha / r, but 1
    where both factors are full, as in ComfyUI, A1111 and LyCORIS.
    """

    kind = "lokr"
    keys = {f"lokr_{name}": name for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}  # noqa: RUF012

    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    alpha: float = 1.0

    def _check(self) -> None:
        _check_factor("w1", self.w1, self.w1_a, self.w1_b, None)
        _check_factor("w2", self.w2, self.w2_a, self.w2_b, self.t2)

    @property
    def rank(self) -> int | None:
        factor = self.w2_b if self.w2_b is not None else self.w1_b
        return None if factor is None else int(factor.shape[0])

    @property
    def changes_nothing(self) -> bool:
        return not all(parameter.any() for parameter in self.parameters)

    def fits(self, shape: torch.Size) -> bool:
        (a, c), (b, d, *kernel) = self._factor_shape(1), self._factor_shape(2)
        return (a * b, c * d * math.prod(kernel)) == (shape[0], math.prod(shape[1:]))

    def delta(self, weight: Tensor) -> Tensor:
        first = _factor(self.w1, self.w1_a, self.w1_b, None, weight.device)
        second = _factor(self.w2, self.w2_a, self.w2_b, self.t2, weight.device)
        if second.ndim > 2:
            first = first.reshape(*first.shape, *(1 for _ in second.shape[2:]))
        return self.scale * torch.kron(first.contiguous(), second.contiguous()).reshape(weight.shape)

    def _factor_shape(self, number: int) -> tuple[int, ...]:
        whole, a, b = (getattr(self, f"w{number}{suffix}") for suffix in ("", "_a", "_b"))
        if whole is not None:
            return tuple(whole.shape)
        if number == 2 and self.t2 is not None:
            return (a.shape[1], b.shape[1], *self.t2.shape[2:])
        return (a.shape[0], b.shape[1])


def _check_factor(name: str, whole: Tensor | None, a: Tensor | None, b: Tensor | None, core: Tensor | None) -> None:
    if whole is not None:
        if a is not None or b is not None or core is not None:
            raise ArtifactError(f"has both lokr_{name} and its factors")
        if whole.ndim < 2 or (name == "w1" and whole.ndim != 2):
            raise ArtifactError(f"has a lokr_{name} of the invalid shape {tuple(whole.shape)}")
        return
    if a is None or b is None:
        raise ArtifactError(f"lacks lokr_{name}{'' if a is None and b is None else '_a' if a is None else '_b'}")
    require_product(f"lokr_{name}", a, b, core)


def _factor(
    whole: Tensor | None, a: Tensor | None, b: Tensor | None, core: Tensor | None, device: torch.device
) -> Tensor:
    if whole is not None:
        return whole.to(device).float()
    assert a is not None and b is not None
    return product(a, b, core, device)
