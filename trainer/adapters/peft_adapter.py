"""Adds a peft adapter to a component of the base, in fp32, and removes it again."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import inject_adapter_in_model
from torch import Tensor, nn

from artifact.layers import Layer
from artifact.merging.low_rank import Fit
from artifact.placement.low_rank import remove_adapters
from artifact.placement.timesteps import ActingComponents, TimestepClock
from families.parts.whole_tensor import whole
from trainer.adapters.base_precision import compute_in_base_precision
from trainer.adapters.dropout import AdapterDropout
from trainer.adapters.first_values import EVA, PARTS_OF_WEIGHTS, STARTS
from trainer.adapters.kind import ADAPTER, AdapterKind
from trainer.adapters.kinds import KINDS, MODULES, draw_again
from trainer.adapters.starting import CannotHold, start_layer


@dataclass(frozen=True)
class Timed:
    """The timesteps at which components are used. `times`: (r, 2), as in `artifact.layers.TimedLoraLayer`. `ends`: the
    timestep arguments for clean latents and for pure noise."""

    times: Tensor
    ends: tuple[float, float]


class PeftAdapter:
    """A new adapter, without effect until it is trained. `parameters` are fp32 in any precision of the base."""

    def __init__(
        self,
        component: Any,
        kind: str,
        rank: int,
        alpha: float,
        paths: Sequence[str],
        generator: torch.Generator,
        dropout: AdapterDropout | None = None,
        start: str = "kaiming",
        timed: Timed | None = None,
    ) -> None:
        """`kind`: a name in KINDS. `generator`: of the initial values. `dropout` is applied before every down
        projection. `start`: kaiming or EVA; for LoRAs a name in STARTS or, on linear layers, in PARTS_OF_WEIGHTS.
        `timed`: for a kind whose components are only used at some timesteps."""
        self._component = component
        self._dropped: set[str] = set()
        self._kind: AdapterKind = KINDS[kind]
        self._is_part_of_weights = start in PARTS_OF_WEIGHTS
        self._clock = None if timed is None else TimestepClock(component, timed.ends)
        acting = None if timed is None or self._clock is None else ActingComponents(self._clock, timed.times)
        trained = [parameter for parameter in component.parameters() if parameter.requires_grad]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # the configuration of the token adapter
            warnings.filterwarnings("ignore", "Invalid `oft_block_size`")  # using the nearest block size is intended
            inject_adapter_in_model(self._kind.config(rank, alpha, paths), component, adapter_name=ADAPTER)
        for parameter in trained:  # the token embeddings, which peft has frozen
            parameter.requires_grad_(True)
        cast_training_params([component], torch.float32)
        for module in self.modules():
            _correct_magnitude(module)
            if dropout is not None:
                module.lora_dropout[ADAPTER] = dropout
            if self._kind.in_base_precision:
                compute_in_base_precision(module, ADAPTER, acting)
        self._draw(start, generator)
        wrong = [name for name, parameter in self._named_parameters() if parameter.dtype != torch.float32]
        assert not wrong, f"{wrong[0]} is not fp32"

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._named_parameters()]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """DoRA's magnitudes, and parameters that were initialised with a part of the base's weights: decay towards 0
        would remove that part of the base."""
        if self._is_part_of_weights:
            return self.parameters
        return [parameter for name, parameter in self._named_parameters() if "lora_magnitude_vector" in name]

    @property
    def up_projections(self) -> list[nn.Parameter]:
        """The parameters with LoRA+'s higher learning rate: the matrices that are initialised with zeros."""
        return [parameter for name, parameter in self._named_parameters() if ".lora_B." in name]

    def modules(self) -> list[Any]:
        """Return peft's layers."""
        return [part for part in self._component.modules() if isinstance(part, MODULES)]

    def layers(self) -> dict[str, Layer]:
        """Return the trained layers by module path, as fp32 tensors on the CPU."""
        return {
            path: self._kind.layer(part) for path, part in self._component.named_modules() if isinstance(part, MODULES)
        }

    def start(self, path: str, layer: Layer) -> Fit | None:
        """Initialise the module at `path` with `layer`. Returns the quality of the approximation, None if it is exact.
        Raises CannotHold."""
        if path in self._dropped:  # no trained value depends on it
            return None
        module = self._component.get_submodule(path)
        if not isinstance(module, MODULES):
            raise CannotHold("it has no adapter")
        return start_layer(module, path, layer)

    def set_enabled(self, enabled: bool) -> None:
        """Enable or disable the adapter. Enabling also makes its parameters trainable again."""
        for module in self.modules():
            module.enable_adapters(enabled)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def remove(self) -> None:
        """Restore the component's original modules, as the same objects."""
        if self._clock is not None:
            self._clock.remove()
        remove_adapters(self._component)

    def drop(self, paths: Sequence[str]) -> None:
        """Remove the adapter from these modules, whose output is not used."""
        self._dropped.update(paths)
        for path in paths:
            self._component.set_submodule(path, self._component.get_submodule(path).get_base_layer())

    @torch.no_grad()
    def _draw(self, start: str, generator: torch.Generator) -> None:
        if start in ("kaiming", EVA):
            draw_again(self._named_parameters(), generator)
            return
        for module in self.modules():
            if start in PARTS_OF_WEIGHTS:
                _start_as_part(module, start, generator)
                continue
            STARTS[start](module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight, generator)

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        inside = {id(parameter) for module in self.modules() for parameter in module.get_base_layer().parameters()}
        own = {id(parameter) for module in self.modules() for parameter in module.parameters()} - inside
        return [(name, parameter) for name, parameter in self._component.named_parameters() if id(parameter) in own]


@torch.no_grad()
def _start_as_part(module: Any, start: str, generator: torch.Generator) -> None:
    """The part of the rank that exceeds the weight's own rank is initialised as in a new LoRA."""
    down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    STARTS["gaussian"](down, up, generator)
    weight = whole(module.get_base_layer().weight.detach()).float()
    part = PARTS_OF_WEIGHTS[start](weight, len(down), module.scaling[ADAPTER])
    down[: len(part[0])] = part[0].to(down)
    up[:, : len(part[0])] = part[1].to(up)
    module.lora_variant[ADAPTER].first = (down.detach().clone(), up.detach().clone())


@torch.no_grad()
def _correct_magnitude(module: Any) -> None:
    """Recompute DoRA's initial magnitude in fp32. peft computes it in the base's precision, and bf16 would be off by
    0.2 %."""
    if ADAPTER in getattr(module, "lora_magnitude_vector", ()):
        weight = module.get_base_layer().weight.float()
        magnitude = module.lora_magnitude_vector[ADAPTER].weight
        magnitude.copy_(torch.linalg.vector_norm(weight.flatten(1), dim=1).reshape(magnitude.shape))
