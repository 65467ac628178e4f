"""Puts a fresh LoRA on the denoiser (Hu et al. 2021), by peft."""

import math
from typing import Literal, get_args

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from families.family import ModelFamily
from preprocess.settings import ConfigError

ADAPTER = "default"

LoraTargets = Literal["attention", "attention+feed-forward", "attention+feed-forward+convolutions"]
LORA_TARGETS: tuple[LoraTargets, ...] = get_args(LoraTargets)


def target_modules(family: ModelFamily, targets: LoraTargets) -> list[str]:
    """How the names of the layers end that `targets` means. Raises ConfigError where the base has no such layers."""
    kinds = targets.split("+")
    missing = [kind for kind in kinds if not family.adapter_modules[kind]]
    if missing:
        remedy = "+".join(kind for kind in kinds if kind not in missing)
        raise ConfigError(f"lora_targets: a base of the family {family.name} has no {missing[0]}; choose {remedy}")
    return [name for kind in kinds for name in family.adapter_modules[kind]]


def add_lora(
    family: ModelFamily, targets: LoraTargets, rank: int, alpha: float, generator: torch.Generator
) -> list[nn.Parameter]:
    """Inject a LoRA into every module that `targets` means, and give its parameters, in fp32 whatever the base's dtype.

    The down projections are drawn from `generator` (uniform within ±1/√in, as peft does), the up projections are
    zero, so the model is unchanged at first.
    """
    denoiser = family.denoiser
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=target_modules(family, targets),
        exclude_modules=list(family.idle_modules) or None,
        init_lora_weights=True,
    )
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
