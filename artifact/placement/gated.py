"""Changes the outputs of cross-attention projections for the trigger words of Perfusion, in training and sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from artifact.errors import ArtifactError
from artifact.layers import Gate, GatedLayer, Layer
from artifact.names.components import DENOISER, Place
from families.family import ModelFamily
from families.parts.whole_tensor import whole

KEYS, VALUES = ".attn2.to_k", ".attn2.to_v"
LEAST_ENERGY = 50.0
"""Lower limit of i*ᵀ C⁻¹ i* of a difference, in its gate and its part of a state. Its square root is the spread of eᵀ
C⁻¹ i* over the base's captions: a smaller difference, which tokens have while they are close to their class word,
cannot be distinguished from other words, and its edit becomes weaker."""


@dataclass
class Words:
    """The gates of several files together, fp32, with R rows in all: `inputs` and `directions` (R, d), the others (R,).

    `scales`: the strength of each edit; 0: none. `floors`: of i*ᵀ C⁻¹ i*.
    """

    inputs: Tensor
    directions: Tensor
    biases: Tensor
    temperatures: Tensor
    scales: Tensor
    floors: Tensor
    unmixing: Tensor
    """(R, R): the inverse of i*ᵀ C⁻¹ i* between the rows, so that the common part of two rows is subtracted once."""

    @classmethod
    def of(cls, gates: Sequence[Gate], scales: Sequence[float]) -> "Words":
        """Join the gates of several files, each with its scale."""
        counts = [len(gate.inputs) for gate in gates]
        words = cls(
            torch.cat([gate.inputs for gate in gates]).float(),
            torch.cat([gate.directions for gate in gates]).float(),
            _repeated([gate.bias for gate in gates], counts),
            _repeated([gate.temperature for gate in gates], counts),
            _repeated(scales, counts),
            torch.cat([_floors(gate) for gate in gates]),
            torch.empty(sum(counts), sum(counts)),
        )
        words.set_states(words.inputs, words.directions)
        return words

    def set_states(self, inputs: Tensor, directions: Tensor) -> None:
        """Replace the states, in place. The mixed products are solved in fp64."""
        products = inputs.double() @ directions.double().T
        missing = (self.floors.to(products) - products.diagonal()).clamp(min=0)
        self.inputs.copy_(inputs)
        self.directions.copy_(directions)
        self.unmixing.copy_(torch.linalg.pinv((products + products.T) / 2 + missing.diag()))

    def to(self, device: torch.device) -> "Words":
        """Move to a device."""
        return Words(**{name: value.to(device) for name, value in vars(self).items()})

    def change(self, states: Tensor, base_outputs: Tensor, outputs: Tensor) -> Tensor:
        """Return what is added to a layer's output for `states` (B, L, d): (B, L, out), fp32.

        Σ s (g o* - c W i*), with a row's part c of the state in the metric of C⁻¹, its gate g and its scale s.
        `base_outputs`: W i*, `outputs`: o*, (R, out) each. Autocast is off: in training steps it would round the
        directions and products to bf16, and sampling does not.
        """
        with torch.autocast(states.device.type, enabled=False):
            products = states.float() @ self.directions.T
            own = (self.inputs * self.directions).sum(1).maximum(self.floors)
            gates = torch.sigmoid((products / own - self.biases) / self.temperatures)
            return (gates * self.scales) @ outputs - (products @ self.unmixing * self.scales) @ base_outputs


class GatedEdits:
    """The edits of all layers of a denoiser, as hooks; its modules do not change. `enabled`: whether they are
    active."""

    def __init__(self, denoiser: nn.Module, words: Words, targets: Tensor) -> None:
        """Keys give the outputs of the states `targets` (R, d), see Gate; values, too, until `outputs` are set."""
        self.words, self.enabled = words.to(next(denoiser.parameters()).device), True
        modules = {path: module for path, module in denoiser.named_modules() if path.endswith((KEYS, VALUES))}
        self.outputs = {path: _linear(module, targets) for path, module in modules.items()}
        self._modules = modules
        self._base_outputs = {path: _linear(module, self.words.inputs) for path, module in modules.items()}
        self._handles = [module.register_forward_hook(self._hook(path)) for path, module in modules.items()]

    def follow_words(self) -> None:
        """Compute W i* again, after the states of the words have changed."""
        for path, module in self._modules.items():
            self._base_outputs[path].copy_(_linear(module, self.words.inputs))

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, path: str) -> Any:
        def edit(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self.enabled:
                return None
            change = self.words.change(inputs[0], self._base_outputs[path], self.outputs[path])
            return output + change.to(output.dtype)

        return edit


class PlacedEdits:
    """The edits of several files on one base."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._counts: list[int] = []
        self._edits: GatedEdits | None = None

    def place(self, family: ModelFamily, resolved: Sequence[Mapping[Place, Layer]], scales: Sequence[float]) -> None:
        """Apply the files' edits to the base. `resolved`: the layers of every file; those of other kinds are ignored.
        Raises ArtifactError, with nothing changed, for a layer that does not read the prompt.
        """
        found = [
            {place: layer for place, layer in layers.items() if isinstance(layer, GatedLayer)} for layers in resolved
        ]
        self._files = [number for number, layers in enumerate(found) if layers]
        if not self._files:
            return
        gates = [_gate(found[number]) for number in self._files]
        self._counts = [len(gate.inputs) for gate in gates]
        words = Words.of(gates, [scales[number] for number in self._files])
        self._edits = GatedEdits(family.denoiser, words, torch.cat([gate.targets for gate in gates]))
        for path, outputs in self._edits.outputs.items():
            for number, rows in zip(self._files, outputs.split(self._counts), strict=True):
                if (layer := found[number].get(Place(DENOISER, path))) is not None:
                    rows.copy_(layer.outputs)

    def set_scales(self, scales: Sequence[float]) -> None:
        """Set the strength of every file's edits. `scales` by the number of the file."""
        if self._edits is not None:
            own = [scales[number] for number in self._files]
            self._edits.words.scales.copy_(_repeated(own, self._counts))

    def remove(self) -> None:
        """Restore the base."""
        if self._edits is not None:
            self._edits.remove()
            self._edits = None


def _gate(layers: Mapping[Place, GatedLayer]) -> Gate:
    wrong = [place for place in layers if place.component != DENOISER or not place.path.endswith(VALUES)]
    if wrong:
        raise ArtifactError(
            f"{wrong[0].component} {wrong[0].path} does not read the prompt, so an edit by Perfusion cannot be applied "
            "to it"
        )
    gate = next(iter(layers.values())).gate
    assert gate is not None
    return gate


def _floors(gate: Gate) -> Tensor:
    """The lower limits: 0 for the words, whose own states are far from 0."""
    return torch.tensor([0.0] * len(gate.classes) + [LEAST_ENERGY] * gate.later)


def _repeated(values: Sequence[float], counts: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).repeat_interleave(torch.tensor(counts))


@torch.no_grad()
def _linear(module: Any, states: Tensor) -> Tensor:
    weight = whole(module.weight.detach()).float()
    return states.to(weight) @ weight.T
