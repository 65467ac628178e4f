"""Computes the full changes of base weights by LoRA files, to convert layers of any kind to plain LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from artifact.artifact import Artifact
from artifact.layers import FullLayer, Layer, TimedLoraLayer
from artifact.merging.low_rank import Fit, nearest_lora
from artifact.merging.plain import Outcome
from artifact.names.components import Place, components, place_names
from artifact.placement.low_rank import LoraSlots
from artifact.placement.placing import resolve_layers
from families.family import ModelFamily
from families.registry import load_base_model


@dataclass(frozen=True)
class Change:
    """ΔW in the shape of the module's weight, and Δb where its bias is changed too, fp32."""

    weight: Tensor
    bias: Tensor | None


def open_base(base: str, base_config: str | None) -> ModelFamily:
    """Load the base in fp32. `base_config` applies to single files only. Raises BaseModelError."""
    family = load_base_model(base, torch.float32, base_config=base_config if Path(base).is_file() else None)
    return family.to(torch.device("cpu"))


class Changes:
    """Σ weight · ΔW for every changed module, computed on demand from the base's own weights."""

    def __init__(self, artifacts: Sequence[Artifact], weights: Sequence[float], family: ModelFamily) -> None:
        """Raises ArtifactError when a file does not fit this base."""
        slots = LoraSlots(family)
        resolved = [resolve_layers(artifact, slots) for artifact in artifacts]
        self.family = family
        self._parts: dict[Place, list[tuple[float, Layer]]] = {}
        for weight, layers in zip(weights, resolved, strict=True):
            for place, layer in layers.items():
                self._parts.setdefault(place, []).append((weight, layer))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def places(self) -> Sequence[Place]:
        """The modules that are changed."""
        return list(self._parts)

    @property
    def approximate(self) -> list[str]:
        """What the changes are of layers that no weight can follow, a sentence."""
        timed = [place for place, parts in self._parts.items() if any(isinstance(p, TimedLoraLayer) for _, p in parts)]
        if not timed:
            return []
        return [f"{len(timed)} layers are only used in a part of the timesteps: their mean effect was written"]

    def kinds(self, place: Place) -> tuple[str, ...]:
        """Return the changed parameters of the module: `weight`, and `bias` where a file changes it."""
        return ("weight", "bias") if _bias_changes(self._parts[place]) else ("weight",)

    def base(self, place: Place) -> Any:
        """Return the base's module at `place`."""
        return components(self.family)[place.component].get_submodule(place.path)

    @torch.no_grad()
    def at(self, place: Place) -> Change:
        """Compute the change at `place`, on the GPU where there is one."""
        parts, weight = self._parts[place], self.base(place).weight.to(self._device)
        change = torch.stack([factor * layer.delta(weight) for factor, layer in parts]).sum(0)
        biases = [factor * bias.to(self._device).float() for factor, bias in _bias_changes(parts)]
        return Change(change, torch.stack(biases).sum(0) if biases else None)


def at_rank_on_base(
    artifacts: Sequence[Artifact], weights: Sequence[float], family: ModelFamily, rank: int
) -> tuple[dict[str, Layer], Outcome]:
    """Return the plain LoRA nearest to the weighted sum of files of any kind, under the names of this program's files.

    Norm layers, which have one axis, stay full differences. Raises ArtifactError when a file does not fit this base.
    """
    names = place_names(family)
    layers, fits, biases = dict[str, Layer](), list[Fit](), list[str]()
    changes = Changes(artifacts, weights, family)
    for place in changes.places:
        name, change = names[place], changes.at(place)
        if change.weight.ndim < 2:
            layers[name] = FullLayer(change.weight.cpu(), None if change.bias is None else change.bias.cpu())
            continue
        layers[name], fit = nearest_lora(name, change.weight, rank)
        fits.append(fit)
        if change.bias is not None and change.bias.any():
            biases.append(name)
    left_out = (
        f"left out, because a LoRA cannot contain them: the biases of {len(biases)} layers, such as "
        f"{''.join(biases[:1])}"
    )
    return layers, Outcome(fits, [*changes.approximate, *([left_out] if biases else [])])


def _bias_changes(parts: Sequence[tuple[float, Layer]]) -> list[tuple[float, Tensor]]:
    return [
        (factor, layer.diff_bias)
        for factor, layer in parts
        if isinstance(layer, FullLayer) and layer.diff_bias is not None
    ]
