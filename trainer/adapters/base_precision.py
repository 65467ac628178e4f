"""LoRA layers with fp32 parameters that compute in the precision of the base, with fewer operations.

peft's own forward pass casts the input to fp32, multiplies twice, scales and adds for each of the 560 adapted layers of
SDXL's attention.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn

from artifact.placement.timesteps import ActingComponents, TimedLora


def compute_in_base_precision(module: Any, adapter: str, acting: ActingComponents | None = None) -> None:
    """Change the forward pass of a peft LoRA layer. Linear layers use `FusedLora`; convolutions only avoid the cast to
    fp32. `acting`: for components that are only used at some timesteps."""
    module._cast_input_dtype = _as_it_is
    if isinstance(module, Linear):
        module.lora_variant[adapter] = FusedLora(acting)
        return
    if acting is not None:
        module.lora_variant[adapter] = TimedLora(acting)
    for projection in (module.lora_A[adapter], module.lora_B[adapter]):
        projection.forward = _in_precision_of_input(projection)


def lora_factors(module: Any, adapter: str) -> tuple[Tensor, Tensor]:
    """Down (r, in, …) and up (out, r, …) whose product, times the scale, is the change of the weight.

    If the LoRA was initialised with B₀·A₀, a part of the weight, this is B·A - B₀·A₀ = [B - B₀, B₀]·[A; A - A₀] of rank
    2r: in this form no large values cancel, and the rounding error is small compared with the change.
    """
    down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    first = getattr(module.lora_variant.get(adapter), "first", None)
    if first is None:
        return down, up
    return torch.cat([down, down - first[0]]), torch.cat([up - first[1], first[1]], dim=1)


class FusedLora(LoraVariant):
    """y + s·B·A·x (Hu et al. 2021, equation 3). The scale and the sum are fused with the product with B."""

    def __init__(self, acting: ActingComponents | None = None) -> None:
        self.acting = acting
        self.first: tuple[Tensor, Tensor] | None = None
        """The initial down and up, if they are a part of the base's weight: their product is subtracted."""

    def forward(self, module: Linear, active_adapter: str, x: Tensor, result: Tensor, **options: Any) -> Tensor:
        """`x`: (..., in). `result`: the base layer's y, (..., out), in the same precision."""
        x = module.lora_dropout[active_adapter](x)
        down, up = (factor.to(x.dtype) for factor in lora_factors(module, active_adapter))
        hidden = nn.functional.linear(x, down)
        if self.acting is not None:
            hidden = self.acting(hidden)
        scale = module.scaling[active_adapter]
        return torch.addmm(result.flatten(0, -2), hidden.flatten(0, -2), up.t(), alpha=scale).view_as(result)


def _as_it_is(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Replaces peft's method that casts the input to the fp32 of the adapter's parameters."""
    return x


def _in_precision_of_input(projection: nn.Module) -> Callable[[Tensor], Tensor]:
    """Wrap the forward pass of `projection` so that its fp32 weight is cast to the dtype of the input."""
    run: Callable[[Tensor], Tensor] = projection.forward

    def forward(x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return run(x)
        with torch.autocast(x.device.type, dtype=x.dtype):
            return run(x)

    return forward
