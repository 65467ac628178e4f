"""Dropout before an adapter's down projection, drawn from a named generator."""

import torch
from torch import Tensor, nn


class AdapterDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with probability `share`, active only in passes with gradients.

    The CPU `generator` seeds each mask, and the mask is drawn on the device of the input. A resumed run therefore drops
    the same values. `process` is the rank: every rank drops different values.
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
