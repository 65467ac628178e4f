"""Tests of peft's LoRA layers with the forward passes of `compute_in_base_precision`."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from trainer.adapters.base_precision import compute_in_base_precision

ADAPTER = "default"
RANK, ALPHA = 3, 5.0


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.convolution = nn.Linear(6, 7), nn.Conv2d(6, 7, 3, padding=1)


def layers(change: bool, dtype: torch.dtype = torch.float32) -> Layers:
    """Returns layers with the same values at each call, none of them zero. The LoRA's values are fp32."""
    torch.manual_seed(0)
    model = Layers().requires_grad_(False).to(dtype)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["linear", "convolution"])
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape)
    for module in (model.linear, model.convolution):
        if change:
            compute_in_base_precision(module, ADAPTER)
    return model


def passes(model: Layers, name: str, x: Tensor) -> list[Tensor]:
    """Returns the output of one layer, and the gradients of its input and its LoRA's parameters."""
    layer = model.get_submodule(name)
    x = x.to(next(model.parameters()).dtype).requires_grad_()
    output = layer(x)
    parameters = [each for part, each in layer.named_parameters() if "lora_" in part]
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), [x, *parameters])]


@pytest.mark.parametrize("shape", [(2, 6), (4, 5, 6), (2, 3, 5, 6)])
def test_the_same_function_as_pefts(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (passes(layers(change), "linear", x) for change in (True, False))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_beside_a_convolution_it_is_the_same_to_the_bit() -> None:
    x = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    ours, theirs = (passes(layers(change), "convolution", x) for change in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_beside_a_bf16_layer_it_computes_in_bf16_and_its_gradients_are_fp32(name: str) -> None:
    x = torch.randn((2, 6, 8, 8) if name == "convolution" else (4, 5, 6), generator=torch.Generator().manual_seed(1))
    exact = passes(layers(True), name, x)
    half = passes(layers(True, torch.bfloat16), name, x)
    assert [each.dtype for each in half] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for one, other in zip(half, exact, strict=True):
        assert (one - other).norm() < 0.03 * other.norm()


def test_switched_off_it_is_the_base_layer() -> None:
    model = layers(True)
    x = torch.randn(4, 6)
    layer: Any = model.linear
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.get_base_layer()(x))
