"""A LoRA whose components are used only in a range of timesteps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.layer import Layer
from artifact.layers.lora import LoraLayer

TO_THE_END = 2.0
"""An upper limit for components that are also used at pure noise, where τ is 1."""


@dataclass(frozen=True)
class TimedLoraLayer(Layer):
    """ΔW(τ) = alpha / r · Σ up_i · down_i over the components i with times_i0 ≤ τ < times_i1 (T-LoRA, K-LoRA).

    τ: the way from clean latents (0) to pure noise (1). `times`: (r, 2), fp32. No other tool knows the times.
    `delta` is the mean over all τ, which is what a plain LoRA can hold of it.
    """

    kind = "timed-lora"
    keys = {"lora_times": "times"}  # noqa: RUF012

    direction: LoraLayer
    times: Tensor

    def __post_init__(self) -> None:
        if self.direction.mid is not None or self.times.shape != (self.rank, 2):
            raise ArtifactError(f"has lora_times of shape {tuple(self.times.shape)} for rank {self.rank}")

    @property
    def rank(self) -> int:
        return self.direction.rank

    @property
    def alpha(self) -> float:
        return self.direction.alpha

    @property
    def parameters(self) -> Sequence[Tensor]:
        return self.direction.parameters

    @property
    def changes_nothing(self) -> bool:
        return self.direction.changes_nothing

    def fits(self, shape: torch.Size) -> bool:
        return self.direction.fits(shape)

    def delta(self, weight: Tensor) -> Tensor:
        start, end = self.times.float().clamp(0, 1).unbind(1)
        share = (end - start).clamp(min=0).to(self.direction.up.device)
        up = self.direction.up.float() * share.reshape(1, -1, *(1 for _ in self.direction.up.shape[2:]))
        return LoraLayer(self.direction.down, up, self.alpha).delta(weight)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.direction.tensors(), "lora_times": self.times}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        rest = {key: value for key, value in tensors.items() if key not in cls.keys}
        return cls(LoraLayer.from_tensors(rest), tensors["lora_times"].float())
