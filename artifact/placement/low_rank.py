"""Adds plain LoRA layers to a base as peft adapters, and removes all peft layers again."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import dispatch_default
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import pad

from artifact.layers import LoraLayer, TimedLoraLayer
from artifact.names.components import Place, components, module_places
from artifact.placement.timesteps import ActingComponents, TimedLora, TimestepClock
from families.family import ModelFamily
from families.parts.placeholder_tokens import first_free_placeholder, tokenizers_with

CONFIG = LoraConfig(r=1, lora_alpha=1, init_lora_weights=False)
"""A placeholder; the tensors are assigned later."""


class LoraSlots:
    """Manages the peft layers of one base. Names and peft layers are created once and reused, since that takes
    longest."""

    def __init__(self, family: ModelFamily, rank: int | None = None) -> None:
        """`rank`: LoRAs of linear layers are padded with zeros to this rank, and scales are tensors, so that LoRAs
        differ only in values, and one compilation supports all LoRAs on the same layers; None: no padding."""
        self._family, self._rank = family, rank
        self._tokenizers: dict[tuple[str, ...], list[Any]] = {}
        self._parents: dict[Place, tuple[nn.Module, str]] = {}
        self._made: dict[nn.Module, Any] = {}
        self._placed: dict[Place, Any] = {}
        self._scalings: dict[float, Tensor] = {}
        self._clock: TimestepClock | None = None

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """The place of every name that a file may use for a module of the base without adapters."""
        return module_places(self._family)

    @cached_property
    def first_free_placeholder(self) -> int:
        """The number of the first placeholder token that the base's vocabularies lack."""
        return first_free_placeholder(self._family)

    def tokenizers(self, names: Sequence[str]) -> list[Any]:
        """Return the base's tokenizers with the tokens `names` added. Raises ValueError when one exists already."""
        if tuple(names) not in self._tokenizers:
            self._tokenizers = {tuple(names): tokenizers_with(self._family, names)}  # only the last LoRA's are cached
        return self._tokenizers[tuple(names)]

    def module(self, place: Place) -> Any:
        """Return the module that is currently at `place`."""
        if place not in self._parents:
            parent, _, name = place.path.rpartition(".")
            component = components(self._family)[place.component]
            self._parents[place] = (component.get_submodule(parent), name)
        parent_module, name = self._parents[place]
        return getattr(parent_module, name)

    def place(self, layers: Mapping[Place, LoraLayer | TimedLoraLayer], adapter: str) -> None:
        """Add the layers as an adapter of that name, frozen, in the base's precision."""
        for place, placed in layers.items():
            layer = placed.direction if isinstance(placed, TimedLoraLayer) else placed
            wrapped = self._slot(place, adapter)
            wrapped.lora_variant.pop(adapter, None)  # of an earlier file
            if isinstance(placed, TimedLoraLayer):
                wrapped.lora_variant[adapter] = TimedLora(ActingComponents(self._running_clock(), placed.times))
            weight = wrapped.get_base_layer().weight
            kernel = weight.shape[2:]
            down = layer.down.reshape(layer.rank, -1, *kernel).to(weight.device, weight.dtype)
            up = layer.up.reshape(-1, layer.rank, *(1 for _ in kernel)).to(weight.device, weight.dtype)
            if placed is layer and not kernel:
                down, up = self._padded(down, up)
            wrapped.lora_A[adapter].weight = nn.Parameter(down, requires_grad=False)
            wrapped.lora_B[adapter].weight = nn.Parameter(up, requires_grad=False)
            wrapped.r[adapter], wrapped.lora_alpha[adapter] = layer.rank, layer.alpha

    def set_scales(self, scales: Mapping[str, float]) -> None:
        """Activate these adapters, each with alpha / rank times its scale."""
        for wrapped in self._placed.values():
            here = [adapter for adapter in scales if _is_filled(wrapped, adapter)]
            if list(wrapped.active_adapters) != here:  # it takes a third of the time of placing
                wrapped.set_adapter(here, inference_mode=True)
            for adapter in here:
                wrapped.scaling[adapter] = self._scaling(
                    scales[adapter] * wrapped.lora_alpha[adapter] / wrapped.r[adapter]
                )

    def remove(self) -> None:
        """Restore the base's own modules. The cached peft layers are emptied."""
        nothing = nn.Parameter(torch.empty(0), requires_grad=False)
        for place, wrapped in self._placed.items():
            self._put(place, wrapped.get_base_layer())
            for adapter in wrapped.lora_A:
                wrapped.lora_A[adapter].weight = wrapped.lora_B[adapter].weight = nothing
        self._placed.clear()
        self._scalings.clear()
        if self._clock is not None:
            self._clock.remove()
            self._clock = None

    def _padded(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        missing = 0 if self._rank is None else self._rank - len(down)
        return (pad(down, (0, 0, 0, missing)), pad(up, (0, missing))) if missing > 0 else (down, up)

    def _scaling(self, value: float) -> float | Tensor:
        """Return the scaling of a peft layer: a tensor with padding, since numbers would be compiled into the code."""
        if self._rank is None:
            return value
        if value not in self._scalings:
            self._scalings[value] = torch.tensor(value, device=self._family.device)
        return self._scalings[value]

    def _running_clock(self) -> TimestepClock:
        if self._clock is None:
            self._clock = TimestepClock(self._family.denoiser, self._family.timestep_ends)
        return self._clock

    def _slot(self, place: Place, adapter: str) -> Any:
        """Return the peft layer at `place` with an entry for the adapter."""
        empty = place not in self._placed
        if empty:
            module = self.module(place)
            if module not in self._made:
                self._made[module] = dispatch_default(module, adapter, CONFIG, r=1, lora_alpha=1)
            self._put(place, self._made[module])
            self._placed[place] = self._made[module]
        wrapped = self._placed[place]
        if adapter not in wrapped.lora_A:
            wrapped.update_layer(adapter, 1, 1, config=CONFIG)
        if empty and self._rank is not None:
            _keep_only(wrapped, adapter)
        return wrapped

    def _put(self, place: Place, module: nn.Module) -> None:
        parent, name = self._parents[place]
        setattr(parent, name, module)


def _keep_only(wrapped: Any, adapter: str) -> None:
    """Delete the entries of earlier requests with more LoRAs, which would cause a new compilation."""
    others = [name for name in wrapped.lora_A if name != adapter]
    if others:
        wrapped.set_adapter([adapter], inference_mode=True)
    for name in others:
        wrapped.delete_adapter(name)


def _is_filled(wrapped: Any, adapter: str) -> bool:
    return adapter in wrapped.lora_A and wrapped.lora_A[adapter].weight.numel() > 0


@torch.no_grad()
def remove_adapters(component: Any) -> None:
    """Remove all of peft's adapters but the trained tokens. The remaining modules are the original objects."""
    for path, part in list(component.named_modules()):
        if isinstance(part, BaseTunerLayer) and not isinstance(part, TrainableTokensLayer):
            component.set_submodule(path, part.get_base_layer())
    trained_tokens = any(isinstance(part, TrainableTokensLayer) for part in component.modules())
    if hasattr(component, "peft_config") and not trained_tokens:
        del component.peft_config
