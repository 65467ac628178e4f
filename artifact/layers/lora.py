"""LoRA: a product of two low-rank matrices."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.factored import FactoredLayer, tucker


@dataclass(frozen=True)
class LoraLayer(FactoredLayer):
    """ΔW = alpha / r · up · down (Hu et al. 2021).

    `down`: (r, in) or (r, in, kh, kw). `up`: (out, r) or (out, r, 1, 1).
    With `mid` (r, r, kh, kw), down is (r, in, 1, 1) and the kernel is their Tucker product (LyCORIS' conv).
    """

    kind = "lora"
    keys = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid"}  # noqa: RUF012

    down: Tensor
    up: Tensor
    alpha: float
    mid: Tensor | None = None

    def _check(self) -> None:
        if self.down.ndim < 2 or self.up.ndim < 2 or self.up.flatten(1).shape[1] != self.down.shape[0]:
            shapes = f"{tuple(self.down.shape)} and {tuple(self.up.shape)}"
            raise ArtifactError(f"has shapes {shapes}, which is not a valid LoRA")
        if self.mid is not None and (self.mid.ndim != 4 or self.mid.shape[:2] != (self.rank, self.rank)):
            raise ArtifactError(f"has a lora_mid of shape {tuple(self.mid.shape)}, but its rank is {self.rank}")

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def changes_nothing(self) -> bool:
        return not self.up.any()

    def fits(self, shape: torch.Size) -> bool:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        inputs = (self.down.shape[1], *kernel)
        if len(shape) < 2 or inputs[0] != shape[1]:
            return False
        return self.up.shape[0] == shape[0] and math.prod(inputs) == math.prod(shape[1:])

    def delta(self, weight: Tensor) -> Tensor:
        down, up = self.down.to(weight.device).float(), self.up.to(weight.device).float()
        if self.mid is None:
            product = up.flatten(1) @ down.flatten(1)
        else:
            product = tucker(self.mid.to(weight.device).float(), up.flatten(1).T, down.flatten(1))
        return self.scale * product.reshape(weight.shape)
