"""The first values of a LoRA's two projections, by name. None changes the base's weights, or what the model predicts.

A new one is a function and a line in STARTS.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Start = Callable[[Tensor, Tensor, torch.Generator], None]
"""Fills down (r, in, …) and up (out, r, …) in place, on whatever device, with draws of the generator on the CPU."""


def gaussian(down: Tensor, up: Tensor, generator: torch.Generator) -> None:
    """down ~ N(0, 1/r²), up zero, as peft's `gaussian` and diffusers' training scripts have it."""
    down.copy_(torch.randn(down.shape, generator=generator) / down.shape[0])
    up.zero_()


def orthogonal(down: Tensor, up: Tensor, generator: torch.Generator) -> None:
    """Both are other than zero, and up · down is zero to rounding: the rows of down and the columns of up lie in two
    halves of a random rotation of the r dimensions. Both learn from the first step on. `r` must be even.

    As peft's `orthogonal`: entries have a tenth of the normal distribution's size.
    """
    rank = down.shape[0]
    rotation, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator).double())
    for target, half in ((down, rotation[1::2]), (up, rotation[0::2])):
        outer = target.numel() // rank
        drawn = torch.randn(outer, rank // 2, generator=generator).double() @ half / 10
        values = drawn.T if target is down else drawn
        target.copy_(values.reshape(target.shape))


STARTS: Mapping[str, Start] = {"gaussian": gaussian, "orthogonal": orthogonal}
"""Beside kaiming, which is drawn for adapters of every kind (`trainer.adapters.kinds.draw_again`)."""
