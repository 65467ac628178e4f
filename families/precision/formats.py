"""Storage formats for frozen weights in 8 or 4 bits, with encoding and decoding.

Implemented with torch only, because peft and diffusers import bitsandbytes and torchao at every start if they are
installed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

PrecisionOfBase = Literal["bf16", "fp8", "int8", "nf4"]
INT8_MOST = 127
FP8 = torch.float8_e4m3fn
FP8_MOST = 448.0
NF4_BLOCK = 64
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of a normal distribution, and 0 (Dettmers et al. 2023, QLoRA, appendix E)."""
ENCODED_AT_ONCE = 2**24
"""Number of values of a weight that are encoded at once; encoding takes 16 bytes for each."""


class Format(ABC):
    """A way to store a matrix (out, in) of fp32 or bf16."""

    def holds(self, weight: Tensor) -> bool:
        """Whether a weight of this shape can be stored in this format."""
        return True

    @abstractmethod
    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The tensors to store, on the weight's device. One of them has the weight's dtype, none has another float."""

    @abstractmethod
    def decode(self, stored: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        """The matrix of `shape` again, in the dtype of the weight."""


class AsItIs(Format):
    """The unchanged format, for layers that are only offloaded."""

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (weight,)

    def decode(self, stored: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        return stored[0]


class Int8(Format):
    """Integers in [-127, 127], with one scale for each row."""

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        scale = _row_scales(weight, INT8_MOST)
        codes = (weight.float() / scale).round_().clamp_(-INT8_MOST, INT8_MOST)
        return codes.to(torch.int8), scale

    def decode(self, stored: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        codes, scale = stored
        return codes * scale


class Fp8(Format):
    """e4m3 in [-448, 448], with one scale for each row. Stored as bytes, which no cast of the model's dtype changes."""

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        scale = _row_scales(weight, FP8_MOST)
        codes = (weight.float() / scale).clamp_(-FP8_MOST, FP8_MOST)
        return codes.to(FP8).view(torch.uint8), scale

    def decode(self, stored: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        codes, scale = stored
        return codes.view(FP8).to(scale.dtype).mul_(scale)


class Nf4(Format):
    """NF4: of 16 values the nearest, times the largest of each block of 64 (QLoRA, §3), without double quantisation.

    A byte holds two of them; `pairs` (256, 2) has the values of each byte.
    """

    def holds(self, weight: Tensor) -> bool:
        return weight.numel() % NF4_BLOCK == 0

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        values = torch.tensor(NF4_VALUES, device=weight.device)
        parts = [_nf4_codes(part, values) for part in weight.flatten().split(ENCODED_AT_ONCE)]
        codes, scale = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        pairs = torch.cartesian_prod(values, values)
        return codes, scale.to(weight.dtype), pairs.to(weight.dtype)

    def decode(self, stored: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        codes, scale, pairs = stored
        return functional.embedding(codes.int(), pairs).view(-1, NF4_BLOCK).mul(scale).view(shape)


def _row_scales(weight: Tensor, most: float) -> Tensor:
    """The scale of each row, (out, 1): its largest absolute value divided by `most`; never 0. In the weight's dtype."""
    largest = weight.float().abs().amax(dim=1, keepdim=True)
    return (largest / most).clamp(min=_smallest(weight.dtype)).to(weight.dtype)


def _smallest(dtype: torch.dtype) -> float:
    """The smallest scale that is not 0 in this dtype. fp16 has a small range, so its subnormal numbers are used."""
    facts = torch.finfo(dtype)
    return facts.tiny * facts.eps if dtype == torch.float16 else facts.tiny


def _nf4_codes(part: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The codes of values (N,), in whole blocks: two per byte (N/2,), and scales (N/64, 1) in fp32."""
    blocks = part.float().view(-1, NF4_BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    borders = (values[1:] + values[:-1]) / 2
    tiny = torch.finfo(torch.float32).tiny
    codes = torch.bucketize(blocks / scale.clamp(min=tiny), borders, out_int32=True).view(-1, 2)
    return (codes[:, 0] * len(NF4_VALUES) + codes[:, 1]).to(torch.uint8), scale


FORMATS: dict[PrecisionOfBase, Format] = {"bf16": AsItIs(), "fp8": Fp8(), "int8": Int8(), "nf4": Nf4()}
