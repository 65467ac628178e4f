"""The adapter kinds that peft supports, with their conversion to the layers of an artifact.

A new kind is a file in this folder and a line in KINDS (docs/adding-an-adapter.md).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig
from peft.tuners.lora import LoraLayer as PeftLoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor

from artifact.layers import DoraLayer, LohaLayer, LokrLayer, LoraLayer
from trainer.adapters.base_precision import lora_factors
from trainer.adapters.kind import ADAPTER, AdapterKind
from trainer.adapters.oft import OFT
from trainer.adapters.t_lora import T_LORA


def _lora_config(**options: bool) -> Callable[[int, float, Sequence[str]], Any]:
    def config(rank: int, alpha: float, paths: Sequence[str]) -> Any:
        return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(paths), **options)

    return config


def _lycoris_config(kind: type) -> Callable[[int, float, Sequence[str]], Any]:
    def config(rank: int, alpha: float, paths: Sequence[str]) -> Any:
        return kind(r=rank, alpha=alpha, target_modules=list(paths))

    return config


def _lora(module: Any) -> LoraLayer:
    """Convert a LoRA. peft's scaling (alpha / r, or alpha / √r in rsLoRA) becomes kohya's alpha / rank."""
    down, up = map(_saved, lora_factors(module, ADAPTER))
    rank = module.r[ADAPTER]
    if len(down) > rank and not down[rank:].any() and not up[:, :rank].any():
        up.zero_()  # untrained: the file stores zeros
    return LoraLayer(down, up, float(module.scaling[ADAPTER]) * down.shape[0])


def _dora(module: Any) -> DoraLayer:
    magnitude = _saved(module.lora_magnitude_vector[ADAPTER].weight)
    return DoraLayer(_lora(module), magnitude.reshape(-1, *(1 for _ in module.get_base_layer().weight.shape[1:])))


def _loha(module: Any) -> LohaLayer:
    factors = _factors(module, LohaLayer.keys)
    return LohaLayer(**factors, alpha=_lycoris_alpha(module))  # type: ignore[arg-type]


def _lokr(module: Any) -> LokrLayer:
    """Convert a LoKr. Other tools apply no scale where both factors are full matrices, so it is multiplied into
    `w1`."""
    factors = _factors(module, LokrLayer.keys)
    if factors["w1"] is not None and factors["w2"] is not None:
        return LokrLayer(w1=factors["w1"] * module.scaling[ADAPTER], w2=factors["w2"])
    return LokrLayer(**factors, alpha=_lycoris_alpha(module))


def _factors(module: Any, keys: Any) -> dict[str, Tensor | None]:
    return {
        name: _saved(values[ADAPTER]) if ADAPTER in (values := getattr(module, key)) else None
        for key, name in keys.items()
    }


def _lycoris_alpha(module: Any) -> float:
    return float(module.scaling[ADAPTER]) * float(module.r[ADAPTER])


def _saved(parameter: Tensor) -> Tensor:
    """Return a copy in fp32 on the CPU."""
    return parameter.detach().float().cpu().clone()


_LYCORIS = "diffusers cannot open its file; predict.py, ComfyUI and A1111 can"

KINDS = {
    "lora": AdapterKind(_lora_config(), _lora, PeftLoraLayer, in_base_precision=True),
    "rslora": AdapterKind(_lora_config(use_rslora=True), _lora, PeftLoraLayer, in_base_precision=True),
    "dora": AdapterKind(_lora_config(use_dora=True), _dora, PeftLoraLayer),
    "loha": AdapterKind(_lycoris_config(LoHaConfig), _loha, LycorisLayer, opens=_LYCORIS),
    "lokr": AdapterKind(_lycoris_config(LoKrConfig), _lokr, LycorisLayer, opens=_LYCORIS),
    "oft": OFT,
    "t-lora": T_LORA,
}
"""Adapter kinds by their names in the settings."""

MODULES: tuple[Any, ...] = tuple({kind.module for kind in KINDS.values()})
"""The peft module classes of all kinds."""


@torch.no_grad()
def draw_again(parameters: Sequence[tuple[str, torch.nn.Parameter]], generator: torch.Generator) -> None:
    """Redraw peft's initial values from `generator`: uniform within ±1/√in, as peft draws them.

    Zeros stay zero, so the adapter has no effect at first.
    """
    for name, parameter in parameters:
        if "lora_magnitude_vector" not in name and parameter.any():
            drawn = torch.empty(parameter.shape)
            torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            parameter.copy_(drawn)
