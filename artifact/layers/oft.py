"""OFT: rotates blocks of a layer's inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.layer import UnrankedLayer, require_known

KEY = "oft_R.weight"


@dataclass(frozen=True)
class OftLayer(UnrankedLayer):
    """ΔW = W·(Rᵀ − 1) on each of n blocks of b inputs, peft's OFT (OneTrainer writes the same).

    `generators`: (n, b·(b−1)/2), the upper triangles of skew-symmetric Q (b, b). R is the Cayley transform (1 + Q)(1 −
    Q)⁻¹, approximated by 1 + 2Q + 2Q² + 2Q³ + Q⁴ (Qiu et al. 2025, arXiv 2506.19847). It has no rank in the sense of
    LoRA, and no alpha.
    """

    kind = "oft"
    keys = {KEY: "generators"}  # noqa: RUF012

    generators: Tensor

    def __post_init__(self) -> None:
        if self.generators.ndim != 2 or self.generators.numel() == 0 or _side(self.generators.shape[1]) is None:
            raise ArtifactError(f"has an {KEY} of the invalid shape {tuple(self.generators.shape)}")

    @property
    def side(self) -> int:
        """The block size b."""
        side = _side(self.generators.shape[1])
        assert side is not None
        return side

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [self.generators]

    @property
    def changes_nothing(self) -> bool:
        return not self.generators.any()

    def fits(self, shape: torch.Size) -> bool:
        return len(shape) == 2 and shape[1] == self.generators.shape[0] * self.side

    def delta(self, weight: Tensor) -> Tensor:
        blocks = weight.float().unflatten(1, (self.generators.shape[0], self.side))
        turned = torch.einsum("okn,kmn->okm", blocks, self.rotations(weight.device))
        return (turned - blocks).flatten(1)

    def rotations(self, device: torch.device) -> Tensor:
        """Return R (n, b, b), fp32."""
        values = self.generators.to(device).float()
        rows, columns = torch.triu_indices(self.side, self.side, 1, device=device)
        upper = torch.zeros(len(values), self.side, self.side, device=device)
        upper[:, rows, columns] = values
        skew = upper - upper.transpose(1, 2)
        square = skew @ skew
        identity = torch.eye(self.side, device=device)
        return identity + 2 * (skew + square + square @ skew) + square @ square

    def tensors(self) -> dict[str, Tensor]:
        return {KEY: self.generators}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        require_known(tensors, cls.keys)
        return cls(tensors[KEY])


def _side(elements: int) -> int | None:
    """Return b for b·(b−1)/2 elements; None where no b fits."""
    side = (1 + math.isqrt(1 + 8 * elements)) // 2
    return side if side * (side - 1) // 2 == elements else None
