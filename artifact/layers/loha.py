"""LoHa: the elementwise product of two low-rank matrices."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.factored import FactoredLayer, product, require_product


@dataclass(frozen=True)
class LohaLayer(FactoredLayer):
    """ΔW = alpha / r · (w1_a w1_b) ⊙ (w2_a w2_b), LyCORIS' LoHa (Hyeon-Woo et al. 2022, FedPara).

    w1_a, w2_a: (out, r), w1_b, w2_b: (r, in·kh·kw).
    With cores `t1`, `t2` (r, r, kh, kw) each factor is a Tucker product; then w_a is (r, out) and w_b (r, in).
    """

    kind = "loha"
    keys = {f"hada_{name}": name for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}  # noqa: RUF012

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: float
    t1: Tensor | None = None
    t2: Tensor | None = None

    def _check(self) -> None:
        if (self.t1 is None) != (self.t2 is None):
            raise ArtifactError(f"lacks {'hada_t1' if self.t1 is None else 'hada_t2'}")
        require_product("hada_w1", self.w1_a, self.w1_b, self.t1)
        require_product("hada_w2", self.w2_a, self.w2_b, self.t2)
        cores = [None if core is None else core.shape for core in (self.t1, self.t2)]
        if (self.w1_a.shape, self.w1_b.shape, cores[0]) != (self.w2_a.shape, self.w2_b.shape, cores[1]):
            raise ArtifactError("has two factors of different shapes, which is not a valid LoHa")

    @property
    def rank(self) -> int:
        return int(self.w1_b.shape[0])

    @property
    def changes_nothing(self) -> bool:
        return not (self.w1_a.any() and self.w1_b.any() and self.w2_a.any() and self.w2_b.any())

    def fits(self, shape: torch.Size) -> bool:
        if self.t1 is None:
            return (self.w1_a.shape[0], self.w1_b.shape[1]) == (shape[0], math.prod(shape[1:]))
        return (self.w1_a.shape[1], self.w1_b.shape[1], *self.t1.shape[2:]) == tuple(shape)

    def delta(self, weight: Tensor) -> Tensor:
        first = product(self.w1_a, self.w1_b, self.t1, weight.device)
        second = product(self.w2_a, self.w2_b, self.t2, weight.device)
        return self.scale * (first * second).reshape(weight.shape)
