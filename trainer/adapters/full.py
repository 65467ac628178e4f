"""Full fine-tuning of a component: all weights are trained, and their differences from the base are saved."""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from artifact.layers import FullLayer, Layer
from artifact.names.kohya import has_weight
from families.parts.whole_tensor import whole
from trainer.adapters.starting import CannotHold
from trainer.distributed.shards import as_sharded, own_parameter, rows_of


class FullFineTuning:
    """Trains the parameters of a component in fp32.

    The base's weights are kept in main memory, and exchanged with the trained ones where the base itself is asked: the
    device holds one copy at any time. Of a sharded component every process trains, and keeps, its own rows; then all
    ranks must call the methods together.
    """

    def __init__(self, component: Any, idle: Collection[str] = (), *, keeps_layers: bool = True) -> None:
        """`idle`: paths of modules that are not trained: those whose output is unused, which only weight decay would
        change, and embedding tables. `keeps_layers`: whether `layers` returns them on this process.

        Raises ValueError when the component is not fp32, or has a parameter that the file format cannot store.
        """
        self._component = component
        self._parameters = dict(_trained(component, idle))
        if any(parameter.dtype != torch.float32 for parameter in self._parameters.values()):
            raise ValueError(
                "full fine-tuning needs the base model in fp32, regardless of the precision of its computation"
            )
        self._paths = [path for path, _ in component.named_modules() if f"{path}.weight" in self._parameters]
        self._own = {name: own_parameter(parameter) for name, parameter in self._parameters.items()}
        self._apart = {name: _in_main_memory(parameter) for name, parameter in self._own.items()}
        self._enabled, self._keeps_layers = True, keeps_layers
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._own.values())

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return []

    @torch.no_grad()
    def layers(self) -> dict[str, Layer]:
        """Return the differences from the base by module path, as fp32 tensors on the CPU."""
        layers: dict[str, Layer] = {}
        for path in self._paths:
            bias = f"{path}.bias"
            moved = self._difference(bias) if bias in self._parameters else None
            layer = FullLayer(self._difference(f"{path}.weight"), moved)
            if self._keeps_layers:
                layers[path] = layer
        return layers

    @torch.no_grad()
    def start(self, path: str, layer: Layer) -> None:
        """Initialise the module with the base's weight plus `layer`. Raises CannotHold if it is not trained."""
        weight = self._parameters.get(f"{path}.weight")
        if weight is None:
            raise CannotHold("it is not trained")
        own = self._own[f"{path}.weight"]
        own.add_(rows_of(layer.delta(whole(weight.detach())), own))
        moved = layer.diff_bias if isinstance(layer, FullLayer) else None
        if moved is not None:
            own = self._own[f"{path}.bias"]
            own.add_(rows_of(moved.to(own), own))

    @torch.no_grad()
    def start_over(self) -> None:
        """Reset the trained weights to the base's."""
        self.set_enabled(True)
        for name, parameter in self._own.items():
            parameter.copy_(self._apart[name])

    @torch.no_grad()
    def set_enabled(self, enabled: bool) -> None:
        """Exchange the trained weights with the base's, in place. The backward pass of a graph needs the same weights
        in place as its forward pass."""
        if enabled == self._enabled:
            return
        for name, parameter in self._own.items():
            present = _in_main_memory(parameter)
            parameter.data.copy_(self._apart[name])
            self._apart[name] = present
        self._enabled = enabled

    def remove(self) -> None:
        """Restore the base's weights bit by bit."""
        self.set_enabled(False)
        self._component.requires_grad_(False)

    def _difference(self, name: str) -> Tensor:
        difference = self._own[name].detach().cpu() - self._apart[name]
        return whole(as_sharded(difference, self._own[name])).cpu()


def _trained(component: nn.Module, idle: Collection[str]) -> Iterator[tuple[str, nn.Parameter]]:
    stored = {path for path, part in component.named_modules() if has_weight(part)}
    for name, parameter in component.named_parameters():
        path, _, kind = name.rpartition(".")
        if path in idle:
            continue
        if path not in stored or kind not in ("weight", "bias"):
            raise ValueError(f"full fine-tuning: {name} is neither the weight nor the bias of a layer")
        yield name, parameter


def _in_main_memory(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to("cpu", copy=True)
