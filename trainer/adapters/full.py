"""Full fine-tuning of a component: all weights are trained, and their differences from the base are saved."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from artifact.layers import FullLayer, Layer
from artifact.names.kohya import has_weight
from trainer.adapters.starting import CannotHold


class FullFineTuning:
    """Trains every parameter of a component in fp32. A copy of the base's weights is kept, so that they can be
    restored."""

    def __init__(self, component: Any, idle: Collection[str] = ()) -> None:
        """`idle`: paths of layers whose output is unused. They are not trained, since only weight decay would change
        them.

        Raises ValueError when the component is not fp32, or has a parameter that the file format cannot store.
        """
        self._component = component
        self._paths = [path for path, part in component.named_modules() if has_weight(part) and path not in idle]
        held = {f"{path}.{name}" for path in self._paths for name in ("weight", "bias")}
        self._parameters = [
            (name, parameter) for name, parameter in component.named_parameters() if name.rpartition(".")[0] not in idle
        ]
        odd = [name for name, _ in self._parameters if name not in held]
        if odd:
            raise ValueError(f"full fine-tuning: {odd[0]} is neither the weight nor the bias of a layer")
        if any(parameter.dtype != torch.float32 for _, parameter in self._parameters):
            raise ValueError("full fine-tuning needs the base in fp32: set mixed_precision to no")
        self._base = {name: parameter.detach().clone() for name, parameter in self._parameters}
        self._trained: dict[str, torch.Tensor] = {}
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._parameters]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return []

    @torch.no_grad()
    def layers(self) -> dict[str, Layer]:
        """Return the differences from the base by module path, as fp32 tensors on the CPU."""
        values = dict(self._parameters)
        layers: dict[str, Layer] = {}
        for path in self._paths:
            weight, bias = f"{path}.weight", f"{path}.bias"
            moved = (values[bias] - self._base[bias]).cpu() if bias in values else None
            layers[path] = FullLayer((values[weight] - self._base[weight]).cpu(), moved)
        return layers

    @torch.no_grad()
    def start(self, path: str, layer: Layer) -> None:
        """Make the module do what the base's and `layer` do. Raises CannotHold where it is not trained."""
        values = dict(self._parameters)
        weight = values.get(f"{path}.weight")
        if weight is None:
            raise CannotHold("it is not trained")
        weight.add_(layer.delta(weight))
        moved = layer.diff_bias if isinstance(layer, FullLayer) else None
        if moved is not None:
            values[f"{path}.bias"].add_(moved.to(weight))

    def set_enabled(self, enabled: bool) -> None:
        """Switch between the trained weights and the base's weights."""
        if not enabled:
            self._trained = {name: parameter.data for name, parameter in self._parameters}
        for name, parameter in self._parameters:
            parameter.data = self._trained[name] if enabled else self._base[name]

    def remove(self) -> None:
        """Restore the base's weights bit by bit."""
        for name, parameter in self._parameters:
            parameter.data = self._base[name]
        self._component.requires_grad_(False)
