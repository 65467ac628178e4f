"""DoRA: a low-rank change of a weight's direction, and a separate magnitude."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.layer import Layer
from artifact.layers.loha import LohaLayer
from artifact.layers.lokr import LokrLayer
from artifact.layers.lora import LoraLayer

DIRECTIONS: tuple[type[LoraLayer], type[LohaLayer], type[LokrLayer]] = (LoraLayer, LohaLayer, LokrLayer)


@dataclass(frozen=True)
class DoraLayer(Layer):
    """W + ΔW = dora_scale ⊙ (W + V) / ‖W + V‖, with V the change by `direction` (Liu et al. 2024, eq. 5).

    The norm is over all axes but one, the axis of `dora_scale`: (out, 1[, 1, 1]) in peft and this trainer, (1, in[, 1,
    1]) by default in LyCORIS. These are different models, which cannot be converted into each other.
    """

    kind = "dora"
    keys = {"dora_scale": "dora_scale"}  # noqa: RUF012

    direction: LoraLayer | LohaLayer | LokrLayer
    dora_scale: Tensor

    def __post_init__(self) -> None:
        if self.dora_scale.ndim < 2 or self.dora_scale.numel() != max(self.dora_scale.shape[:2]):
            raise ArtifactError(
                f"has a dora_scale of shape {tuple(self.dora_scale.shape)}, which matches no axis of the weight"
            )

    @property
    def axis(self) -> int:
        """The axis of the weight along which `dora_scale` varies: 0 for outputs, 1 for inputs."""
        return 1 if self.dora_scale.shape[0] == 1 else 0

    @property
    def rank(self) -> int | None:
        return self.direction.rank

    @property
    def alpha(self) -> float:
        return self.direction.alpha

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [*self.direction.parameters, self.dora_scale]

    @property
    def changes_nothing(self) -> bool:
        return self.direction.changes_nothing

    def fits(self, shape: torch.Size) -> bool:
        return self.direction.fits(shape) and self.dora_scale.numel() == shape[self.axis]

    def delta(self, weight: Tensor) -> Tensor:
        moved = weight.float() + self.direction.delta(weight)
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scale = self.dora_scale.to(weight.device).float().reshape(norm.shape)
        return scale / norm * moved - weight.float()

    def tensors(self) -> dict[str, Tensor]:
        return {**self.direction.tensors(), "dora_scale": self.dora_scale}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        rest = {key: value for key, value in tensors.items() if key not in cls.keys}
        for kind in DIRECTIONS:
            if kind.keys.keys() & rest.keys():
                return cls(kind.from_tensors(rest), tensors["dora_scale"])
        raise ArtifactError("has a dora_scale, but no layer that it scales")
