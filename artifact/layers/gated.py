"""Perfusion: the output of cross-attention projections for one trigger word (Tewel et al. 2023, arXiv 2305.01644)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from artifact.errors import ArtifactError
from artifact.layers.layer import UnrankedLayer, require_known

KEY = "perfusion_outputs"
NO_CHANGE = (
    "is an edit by Perfusion, which does not change weights: it cannot be converted, resized or merged; predict.py "
    "generates images with one or several of them"
)


@dataclass(frozen=True)
class Gate:
    """Distinguishes K words from others by their states, and positions after them from those elsewhere. fp32.

    `inputs`: i*, (K, d) or (2K, d): the words' own states; then, for each word, the mean difference of the states after
    it and those after its class word, which files of earlier versions do not have. `directions`: u = C⁻¹ i*, as many,
    with the second moments C of the base's text states; eᵀu / i*ᵀu is 1 for e = i* and near 0 for other words.
    `classes` (K, d): states of the class words, whose keys the words get. A gate is
    sigmoid((eᵀu / i*ᵀu - bias) / temperature).
    """

    inputs: Tensor
    directions: Tensor
    classes: Tensor
    bias: float
    temperature: float

    def __post_init__(self) -> None:
        shapes = [tuple(each.shape) for each in (self.inputs, self.directions, self.classes)]
        count = len(self.classes) if self.classes.ndim == 2 else 0
        allowed = [(rows, *self.classes.shape[1:]) for rows in (count, 2 * count)]
        if self.classes.numel() == 0 or shapes[0] != shapes[1] or shapes[0] not in allowed:
            raise ArtifactError(
                f"its gate has states of different shapes: {' and '.join(map(str, sorted(set(shapes))))}"
            )
        if not self.temperature > 0:
            raise ArtifactError(f"its gate has the temperature {self.temperature:g}, which must be above 0")
        energies = (self.inputs * self.directions).sum(1)
        if not energies[:count].gt(0).all() or not energies[count:].ge(0).all():
            raise ArtifactError("its gate has a direction whose product with the state of its own word is not positive")

    @property
    def later(self) -> int:
        """How many rows of `inputs`, the last ones, are for the positions after the words: 0 or K."""
        return len(self.inputs) - len(self.classes)

    @property
    def targets(self) -> Tensor:
        """The states that replace `inputs` in keys: the class words' states, and 0 for the differences, which gives the
        state of the class word's prompt. (K, d) or (2K, d)."""
        return torch.cat([self.classes, torch.zeros_like(self.inputs[: self.later])])


@dataclass(frozen=True)
class GatedLayer(UnrankedLayer):
    """The outputs of one layer for the rows of its gate: (K, out) or (2K, out). `gate`: one for all layers of a file,
    which stores it in its header; None before that is read."""

    kind = "perfusion"
    keys = {KEY: "outputs"}  # noqa: RUF012

    outputs: Tensor
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.outputs.ndim != 2 or (self.gate is not None and len(self.outputs) != len(self.gate.inputs)):
            raise ArtifactError(f"has {KEY} of shape {tuple(self.outputs.shape)}")

    @property
    def parameters(self) -> Sequence[Tensor]:
        return [self.outputs] if self.gate is None else [self.outputs, self.gate.inputs]

    def fits(self, shape: torch.Size) -> bool:
        width = None if self.gate is None else self.gate.inputs.shape[1]
        return tuple(shape) == (self.outputs.shape[1], width)

    def delta(self, weight: Tensor) -> Tensor:
        """Raises ArtifactError: the change of the output is not linear in the input."""
        raise ArtifactError(f"a layer {NO_CHANGE}")

    def tensors(self) -> dict[str, Tensor]:
        return {KEY: self.outputs}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        require_known(tensors, cls.keys)
        return cls(tensors[KEY])
