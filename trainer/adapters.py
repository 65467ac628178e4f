"""Puts a fresh LoRA on the denoiser (Hu et al. 2021), by peft."""

import math

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

ADAPTER = "default"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def add_lora(denoiser: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> list[nn.Parameter]:
    """Inject a LoRA into every attention projection and give its parameters, in fp32 whatever the base's dtype.

    The down projections are drawn from `generator` (uniform within ±1/√in, as peft does), the up projections are
    zero, so the model is unchanged at first.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=ATTENTION, init_lora_weights=True)
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
