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

from artifact.placement.timesteps import ActingComponents


def compute_in_base_precision(module: Any, adapter: str, acting: ActingComponents | None = None) -> None:
    """Change the forward pass of a peft LoRA layer. Linear layers use `FusedLora`; convolutions only avoid the cast to
    fp32. `acting`: of linear layers, where components act at their timesteps only."""
    module._cast_input_dtype = _as_it_is
    if isinstance(module, Linear):
        module.lora_variant[adapter] = FusedLora(acting)
        return
    for projection in (module.lora_A[adapter], module.lora_B[adapter]):
        projection.forward = _in_precision_of_input(projection)


class FusedLora(LoraVariant):
    """y + s·B·A·x (Hu et al. 2021, equation 3). The scale and the sum are fused with the product with B."""

    def __init__(self, acting: ActingComponents | None = None) -> None:
        self.acting = acting

    def forward(self, module: Linear, active_adapter: str, x: Tensor, result: Tensor, **options: Any) -> Tensor:
        """`x`: (..., in). `result`: the base layer's y, (..., out), in the same precision."""
        x = module.lora_dropout[active_adapter](x)
        down: Tensor = module.lora_A[active_adapter].weight.to(x.dtype)
        up: Tensor = module.lora_B[active_adapter].weight.to(x.dtype)
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
