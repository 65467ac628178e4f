"""Puts a fresh LoRA on the denoiser (Hu et al. 2021), by peft."""

import math
from typing import Literal

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

ADAPTER = "default"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut")

LoraTargets = Literal["attention", "attention+feed-forward", "attention+feed-forward+convolutions"]
TARGET_MODULES: dict[LoraTargets, tuple[str, ...]] = {
    "attention": ATTENTION,
    "attention+feed-forward": ATTENTION + FEED_FORWARD,
    "attention+feed-forward+convolutions": ATTENTION + FEED_FORWARD + CONVOLUTIONS,
}


def add_lora(
    denoiser: nn.Module, targets: LoraTargets, rank: int, alpha: float, generator: torch.Generator
) -> list[nn.Parameter]:
    """Inject a LoRA into every module that `targets` means, and give its parameters, in fp32 whatever the base's dtype.

    The down projections are drawn from `generator` (uniform within ±1/√in, as peft does), the up projections are
    zero, so the model is unchanged at first.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGET_MODULES[targets]), init_lora_weights=True)
    inject_adapter_in_model(config, denoiser, adapter_name=ADAPTER)
    cast_training_params([denoiser], torch.float32)
    parameters = []
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".lora_A." in name:
            with torch.no_grad():
                drawn = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                parameter.copy_(drawn)
        parameters.append(parameter)
    return parameters
