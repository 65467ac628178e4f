"""Initialises an adapter's layer with a layer of a file: exactly if possible, otherwise by singular values."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer as PeftLoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.oft.layer import OFTLayer as PeftOftLayer
from torch import Tensor

from artifact.layers import DoraLayer, FullLayer, Layer, LohaLayer, LokrLayer, LoraLayer, OftLayer, TimedLoraLayer
from artifact.merging.low_rank import Fit, nearest_lora
from families.parts.whole_tensor import whole
from trainer.adapters.kind import ADAPTER


class CannotHold(ValueError):
    """The adapter is of another kind or shape than the layer. The text says which."""


@torch.no_grad()
def start_layer(module: Any, name: str, layer: Layer) -> Fit | None:
    """Initialise `module`, one of peft's layers, with `layer`. Returns None if it is represented exactly, up to
    rounding.

    A LoRA represents one of the same or a smaller rank exactly, and the rest of its rank is initialised as usual; other
    layers are approximated by its rank. DoRA represents all that LoRA represents, with its magnitudes. LoHa, LoKr and
    OFT represent their own kind with the same shapes. Raises CannotHold.
    """
    if isinstance(module, PeftLoraLayer):
        return _start_lora(module, name, layer)
    if isinstance(module, LycorisLayer):
        _start_lycoris(module, layer)
    elif isinstance(module, PeftOftLayer):
        _start_oft(module, layer)
    return None


def _start_lora(module: Any, name: str, layer: Layer) -> Fit | None:
    down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    weight = whole(module.get_base_layer().weight.detach())
    has_magnitudes = ADAPTER in module.lora_magnitude_vector
    magnitudes: Tensor | None = None
    plain: Layer = layer
    acting = getattr(module.lora_variant.get(ADAPTER), "acting", None)
    if acting is not None:
        if not isinstance(layer, TimedLoraLayer) or not torch.allclose(layer.times.to(acting.times), acting.times):
            raise CannotHold("its timesteps differ from those of this t-lora")
        plain = layer.direction
    if isinstance(layer, DoraLayer) and has_magnitudes and layer.axis == 0:
        plain, magnitudes = layer.direction, layer.dora_scale
    if isinstance(layer, FullLayer) and layer.diff_bias is not None and layer.diff_bias.any():
        raise CannotHold("it also changes a bias")
    fit = None
    if not (isinstance(plain, LoraLayer) and plain.mid is None and plain.rank <= down.shape[0]):
        plain, fit = nearest_lora(name, plain.delta(weight), down.shape[0])
    rank = plain.rank
    down[:rank] = plain.down.reshape(rank, *down.shape[1:]).to(down)
    up.zero_()
    up[:, :rank] = plain.up.reshape(-1, rank, *up.shape[2:]).to(up) * (plain.scale / module.scaling[ADAPTER])
    if has_magnitudes:
        vector = module.lora_magnitude_vector[ADAPTER].weight
        if magnitudes is None:
            moved = weight.float() + plain.delta(weight)
            magnitudes = torch.linalg.vector_norm(moved.flatten(1), dim=1)
        vector.copy_(magnitudes.reshape(vector.shape).to(vector))
    return fit


def _start_lycoris(module: Any, layer: Layer) -> None:
    if not isinstance(layer, LohaLayer | LokrLayer):
        raise CannotHold(f"it is {layer.kind}")
    held = {key: getattr(module, key)[ADAPTER] for key in type(layer).keys if ADAPTER in getattr(module, key, ())}
    wanted = {key: getattr(layer, name) for key, name in type(layer).keys.items() if getattr(layer, name) is not None}
    if held.keys() != wanted.keys() or any(held[key].shape != wanted[key].shape for key in held):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in wanted.values())
        raise CannotHold(f"it is {layer.kind} with factors of shapes {shapes}")
    for number, (key, parameter) in enumerate(held.items()):
        factor = layer.scale / module.scaling[ADAPTER] if number == 0 else 1.0
        parameter.copy_(wanted[key].reshape(parameter.shape).to(parameter) * factor)


def _start_oft(module: Any, layer: Layer) -> None:
    parameter = module.oft_R[ADAPTER].weight
    if not isinstance(layer, OftLayer) or layer.parameters[0].shape != parameter.shape:
        raise CannotHold(
            f"it is {layer.kind}" + (" with blocks of another size" if isinstance(layer, OftLayer) else "")
        )
    parameter.copy_(layer.parameters[0].to(parameter))
