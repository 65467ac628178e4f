"""A peft adapter on a component of the base: added in fp32, saved, disabled, removed."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import inject_adapter_in_model
from torch import nn

from artifact.layers import Layer
from artifact.placement.low_rank import remove_adapters
from trainer.adapters.base_precision import compute_in_base_precision
from trainer.adapters.dropout import AdapterDropout
from trainer.adapters.kind import ADAPTER, AdapterKind
from trainer.adapters.kinds import KINDS, MODULES, draw_again


class PeftAdapter:
    """A fresh adapter. Until it is trained it changes nothing. `parameters` are fp32 whatever the base's precision."""

    def __init__(
        self,
        component: Any,
        kind: str,
        rank: int,
        alpha: float,
        paths: Sequence[str],
        generator: torch.Generator,
        dropout: AdapterDropout | None = None,
    ) -> None:
        """`kind`: a name in KINDS. `generator` draws the initial values. `dropout`: before every down projection."""
        self._component = component
        self._kind: AdapterKind = KINDS[kind]
        trained = [parameter for parameter in component.parameters() if parameter.requires_grad]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # of the tokens
            warnings.filterwarnings("ignore", "Invalid `oft_block_size`")  # the nearest is meant
            inject_adapter_in_model(self._kind.config(rank, alpha, paths), component, adapter_name=ADAPTER)
        for parameter in trained:  # tokens, which peft froze
            parameter.requires_grad_(True)
        cast_training_params([component], torch.float32)
        for module in self.modules():
            _correct_magnitude(module)
            if dropout is not None:
                module.lora_dropout[ADAPTER] = dropout
            if self._kind.in_base_precision:
                compute_in_base_precision(module, ADAPTER)
        draw_again(self._named_parameters(), generator)
        wrong = [name for name, parameter in self._named_parameters() if parameter.dtype != torch.float32]
        assert not wrong, f"{wrong[0]} is not fp32"

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self._named_parameters()]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        """DoRA's magnitudes: they start as long as the base's rows, and 0 would be no layer at all."""
        return [parameter for name, parameter in self._named_parameters() if "lora_magnitude_vector" in name]

    def modules(self) -> list[Any]:
        """peft's layers."""
        return [part for part in self._component.modules() if isinstance(part, MODULES)]

    def layers(self) -> dict[str, Layer]:
        """What has been trained up to now, by the path of the module, fp32 on the CPU."""
        return {
            path: self._kind.layer(part) for path, part in self._component.named_modules() if isinstance(part, MODULES)
        }

    def set_enabled(self, enabled: bool) -> None:
        """Off is the bare component. On, the parameters are trainable again."""
        for module in self.modules():
            module.enable_adapters(enabled)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def remove(self) -> None:
        """Give the component's own modules back, the same objects as before."""
        remove_adapters(self._component)

    def drop(self, paths: Sequence[str]) -> None:
        """Take the adapter off these modules."""
        for path in paths:
            self._component.set_submodule(path, self._component.get_submodule(path).get_base_layer())

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        inside = {id(parameter) for module in self.modules() for parameter in module.get_base_layer().parameters()}
        own = {id(parameter) for module in self.modules() for parameter in module.parameters()} - inside
        return [(name, parameter) for name, parameter in self._component.named_parameters() if id(parameter) in own]


@torch.no_grad()
def _correct_magnitude(module: Any) -> None:
    """peft takes DoRA's first magnitude from the base in its own precision; bf16 would be 0.2 % off."""
    if ADAPTER in getattr(module, "lora_magnitude_vector", ()):
        weight = module.get_base_layer().weight.float()
        magnitude = module.lora_magnitude_vector[ADAPTER].weight
        magnitude.copy_(torch.linalg.vector_norm(weight.flatten(1), dim=1).reshape(magnitude.shape))
