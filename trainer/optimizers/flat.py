"""Flattens all parameters of an optimizer into one tensor: SDXL's attention has 1,120 parameters, each with its own
kernel calls."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.optimizers.settings import ParameterGroup


class FlatParameters:
    """Parameters in one contiguous tensor. The model keeps its own parameters as views of `whole`."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """`parameters` must have the same dtype and device."""
        self._parameters = list(parameters)
        self.whole = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        pieces = self.whole.detach().split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data = piece.view_as(parameter)

    def gather_gradients(self, *_hook: Any) -> None:
        """Before a step: concatenate the gradients, with zeros for parameters without one."""
        gradients = [each.grad if each.grad is not None else torch.zeros_like(each) for each in self._parameters]
        self.whole.grad = torch.cat([gradient.flatten() for gradient in gradients])

    def clear_gradients(self) -> None:
        """Clear the gradients of the model's own parameters."""
        for parameter in self._parameters:
            parameter.grad = None


class Flat(torch.optim.Optimizer):
    """Mixin before an optimizer class, which then updates one flat tensor for each group."""

    def __init__(self, groups: Sequence[ParameterGroup], **options: Any) -> None:
        self._flat = [FlatParameters(group["params"]) for group in groups]
        whole = [{**group, "params": [flat.whole]} for group, flat in zip(groups, self._flat, strict=True)]
        super().__init__(whole, **options)
        for flat in self._flat:
            self.register_step_pre_hook(flat.gather_gradients)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the flat tensors and of the model's parameters."""
        super().zero_grad(set_to_none)
        for flat in self._flat:
            flat.clear_gradients()
