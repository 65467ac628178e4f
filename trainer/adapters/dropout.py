"""Dropout before an adapter's down projection, from a named generator and in training passes only."""

import torch
from torch import Tensor, nn


class AdapterDropout(nn.Module):
    """Sets a share of the input to zero and scales up the rest (Srivastava et al. 2014), where gradients are wanted.

    The generator (on the CPU) seeds each mask, which is drawn on the input's own device: a resumed run drops the same.
    Of several processes each one, by its number, drops others.
    """

    def __init__(self, share: float, generator: torch.Generator, process: int = 0) -> None:
        super().__init__()
        self._share = share
        self._seeds, self._process = generator, process

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return x
        seed = int(torch.randint(2**62, (), generator=self._seeds)) + self._process
        kept = (
            torch.rand(x.shape, generator=torch.Generator(x.device).manual_seed(seed), device=x.device) >= self._share
        )
        return x * kept / (1 - self._share)
