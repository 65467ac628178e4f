"""Initial values of a LoRA's two projections, by name. None changes the base weights or the model's predictions.

A new one is a function and a line in STARTS, or in PARTS_OF_WEIGHTS if it is a part of the base's weight.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from artifact.merging.low_rank import nearest_lora

EVA = "eva"
"""Starts like kaiming, and is then computed from the layers' inputs (`trainer.adapters.eva`)."""
Start = Callable[[Tensor, Tensor, torch.Generator], None]
"""Initialises down (r, in, …) and up (out, r, …) in place, on any device, with random numbers of the generator on the
CPU."""


def gaussian(down: Tensor, up: Tensor, generator: torch.Generator) -> None:
    """down ~ N(0, 1/r²), up zero, as in peft's `gaussian` and diffusers' training scripts."""
    down.copy_(torch.randn(down.shape, generator=generator) / down.shape[0])
    up.zero_()


def orthogonal(down: Tensor, up: Tensor, generator: torch.Generator) -> None:
    """Neither is zero, and up · down is zero up to rounding: the rows of down and the columns of up are in two halves
    of a random rotation of the r dimensions. Both are trained from the first step on. `r` must be even. As in peft's
    `orthogonal`, entries have a tenth of the normal distribution's size.
    """
    rank = down.shape[0]
    rotation, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator).double())
    for target, half in ((down, rotation[1::2]), (up, rotation[0::2])):
        outer = target.numel() // rank
        drawn = torch.randn(outer, rank // 2, generator=generator).double() @ half / 10
        values = drawn.T if target is down else drawn
        target.copy_(values.reshape(target.shape))


STARTS: Mapping[str, Start] = {"gaussian": gaussian, "orthogonal": orthogonal}
"""The initialisations except kaiming, which is used for adapters of every kind
(`trainer.adapters.kinds.draw_again`)."""

PartOfWeight = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]
"""From a weight (out, in), the rank r and the scale s: down (≤ r, in) and up (out, ≤ r), whose product is trained as a
part of the weight. Their initial product is subtracted, so that the base's weight is not changed."""


def pissa(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """s · up · down are the r largest singular components of the weight, split evenly (Meng et al. 2024, arXiv
    2404.02948, eq. 2 and 3)."""
    layer, _ = nearest_lora("", weight, rank)
    return layer.down / scale**0.5, layer.up / scale**0.5


def olora(weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """The first r columns of Q and rows of R of the weight's QR decomposition (Büyükakyüz 2024, arXiv 2406.01775)."""
    q, r = torch.linalg.qr(weight.double())
    return r[:rank].float(), q[:, :rank].float()


PARTS_OF_WEIGHTS: Mapping[str, PartOfWeight] = {"pissa": pissa, "olora": olora}
