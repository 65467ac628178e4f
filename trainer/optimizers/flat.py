"""One tensor for all parameters of an optimizer that would else read the device once for each of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class FlatParameters:
    """The parameters, laid out one behind the other. They stay the model's own, as views of the whole."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """All must be of one dtype and device."""
        self._parameters = list(parameters)
        self.whole = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        pieces = self.whole.detach().split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.data = piece.view_as(parameter)

    def gather_gradients(self, *_hook: Any) -> None:
        """Before a step: the gradient of the whole; a parameter without one has zeros."""
        gradients = [each.grad if each.grad is not None else torch.zeros_like(each) for each in self._parameters]
        self.whole.grad = torch.cat([gradient.flatten() for gradient in gradients])

    def clear_gradients(self) -> None:
        """Of the model's own parameters."""
        for parameter in self._parameters:
            parameter.grad = None
