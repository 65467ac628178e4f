"""A frozen linear layer whose weight is stored in another format, or on another device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from families.precision.formats import Format


class StoredLinear(nn.Linear):
    """x·Wᵀ + b with a frozen W that is decoded for each forward and backward pass."""

    def __init__(self, layer: nn.Linear, form: Format, device: torch.device, *, offloaded: bool = False) -> None:
        """`layer`: its weight is encoded on `device`. `offloaded`: the stored tensors stay in main memory, and are
        copied to the device for each pass."""
        nn.Module.__init__(self)  # Linear's constructor would allocate a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.form, self.offloaded = form, offloaded
        encoded = form.encode(layer.weight.detach().to(device))
        kept = (_in_main_memory(tensor) if offloaded else tensor for tensor in encoded)
        self.stored = nn.ParameterList(nn.Parameter(tensor, requires_grad=False) for tensor in kept)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        self.register_buffer("computes_on", torch.empty(0, device=device), persistent=False)
        self.train(layer.training)

    computes_on: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The decoded matrix (out, in), on the device of the computation."""
        return _decoded(self.form, list(self.stored), self.computes_on.device, (self.out_features, self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        return _Product.apply(x, self.bias, self.form, shape, *self.stored)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StoredLinear":
        """Move all tensors except offloaded ones."""
        if not self.offloaded:
            return super()._apply(fn, recurse)
        return super()._apply(fn, recurse=False)


class _Product(torch.autograd.Function):
    """Saves the stored tensors for the backward pass, not the decoded matrix."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, form: Format, shape: tuple[int, int], *stored: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*stored)
        ctx.form, ctx.shape = form, shape
        return functional.linear(x, _decoded(form, stored, x.device, shape), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        stored = ctx.saved_tensors  # with gradient checkpointing they can only be read once
        nothing = (None,) * (3 + len(stored))
        if not ctx.needs_input_grad[0]:
            return (None, *nothing)
        return (gradient @ _decoded(ctx.form, stored, gradient.device, ctx.shape), *nothing)


def _decoded(form: Format, stored: Sequence[Tensor], device: torch.device, shape: tuple[int, int]) -> Tensor:
    return form.decode([tensor.to(device, non_blocking=True) for tensor in stored], shape)


def _in_main_memory(tensor: Tensor) -> Tensor:
    """A copy in main memory, pinned if there is a GPU, so that copies to it are asynchronous."""
    there = tensor.cpu()
    return there.pin_memory() if torch.cuda.is_available() else there
