"""Puts plain LoRA layers on a module as peft adapters, beside the weights, and takes all peft layers off again."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer as PeftLoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn

from artifact.layers import LoraLayer


def place_lora(component: Any, layers: Mapping[str, LoraLayer], adapter: str) -> None:
    """Add `layers` (by the path of their module) as an adapter of that name, frozen, in the base's precision."""
    config = LoraConfig(r=1, lora_alpha=1, target_modules=list(layers))  # the real tensors are put in below
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is wanted
        inject_adapter_in_model(config, component, adapter_name=adapter)
    for path, layer in layers.items():
        wrapped = component.get_submodule(path)
        weight = wrapped.get_base_layer().weight
        kernel = weight.shape[2:]
        down = layer.down.reshape(layer.rank, -1, *kernel).to(weight.device, weight.dtype)
        up = layer.up.reshape(-1, layer.rank, *(1 for _ in kernel)).to(weight.device, weight.dtype)
        wrapped.lora_A[adapter].weight = nn.Parameter(down, requires_grad=False)
        wrapped.lora_B[adapter].weight = nn.Parameter(up, requires_grad=False)
        wrapped.r[adapter], wrapped.lora_alpha[adapter] = layer.rank, layer.alpha
        wrapped.scaling[adapter] = layer.scale


def set_lora_scales(component: nn.Module, scales: Mapping[str, float]) -> None:
    """Make exactly these adapters active, each at alpha / rank times its scale."""
    for module in component.modules():
        if isinstance(module, PeftLoraLayer):
            module.set_adapter([adapter for adapter in scales if adapter in module.lora_A])
            for adapter, scale in scales.items():
                if adapter in module.lora_A:
                    module.scaling[adapter] = scale * module.lora_alpha[adapter] / module.r[adapter]
            module.requires_grad_(False)


@torch.no_grad()
def remove_adapters(component: Any) -> None:
    """Take every LoRA, LoHa and LoKr layer of peft out; the modules below are the same objects as before."""
    for path, part in list(component.named_modules()):
        if isinstance(part, PeftLoraLayer | LycorisLayer):
            component.set_submodule(path, part.get_base_layer())
    trained_tokens = any(isinstance(part, TrainableTokensLayer) for part in component.modules())
    if hasattr(component, "peft_config") and not trained_tokens:
        del component.peft_config
