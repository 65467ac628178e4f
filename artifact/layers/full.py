"""The change of a weight as a full matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.layer import UnrankedLayer, require_known


@dataclass(frozen=True)
class FullLayer(UnrankedLayer):
    """ΔW = diff and Δb = diff_bias of any shape, as by full fine-tuning. It has neither rank nor alpha."""

    kind = "full"
    keys = {"diff": "diff", "diff_b": "diff_bias"}  # noqa: RUF012

    diff: Tensor
    diff_bias: Tensor | None = None

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [self.diff] if self.diff_bias is None else [self.diff, self.diff_bias]

    @property
    def changes_nothing(self) -> bool:
        return not any(parameter.any() for parameter in self.parameters)

    def fits(self, shape: torch.Size) -> bool:
        return self.diff.shape == shape

    def delta(self, weight: Tensor) -> Tensor:
        return self.diff.to(weight.device).float().reshape(weight.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {key: value for key, name in self.keys.items() if (value := getattr(self, name)) is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        require_known(tensors, cls.keys)
        if "diff" not in tensors:
            raise ArtifactError("lacks diff")
        return cls(tensors["diff"], tensors.get("diff_b"))
