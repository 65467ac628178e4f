"""fp8 matrix products of a denoiser's linear layers, for sampling: both weights and inputs, each row with its own
scale.

torch's `scaled_mm` multiplies them. A training cannot use it: it has no gradient.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import ScalingType, scaled_mm

from families.loading.fingerprint import fingerprint, remember_fingerprint
from families.parts.blocks import repeated_blocks
from families.precision.formats import FP8, FP8_MOST

MULTIPLE = 16
"""Required multiple of both widths of a layer for fp8 products on GPUs."""
LEAST_CAPABILITY = (8, 9)
"""Compute capability of NVIDIA's GPUs that support fp8 products: Ada, and Hopper from 9.0 on."""
SMALLEST = 1e-12
"""Lower limit of a scale, for rows of zeros."""


class Fp8Linear(nn.Linear):
    """x·Wᵀ + b with W and x rounded to fp8 (e4m3), each row divided by its largest value / 448 first. Forward only."""

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        """`layer`: its weight is encoded on `device`."""
        nn.Module.__init__(self)  # Linear's constructor would allocate a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        codes, scales = _encoded(layer.weight.detach().to(device))
        self.codes, self.scales = nn.Parameter(codes, requires_grad=False), nn.Parameter(scales, requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        self.dtype = layer.weight.dtype
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The decoded matrix (out, in), for its shape, dtype and device. Changes to it are lost."""
        return (self.codes.float() * self.scales).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        codes, scales = _encoded(x.reshape(-1, self.in_features))
        rows = ScalingType.RowWise
        product = scaled_mm(codes, self.codes.t(), scales, rows, self.scales.t(), rows, output_dtype=self.dtype)
        return (product if self.bias is None else product + self.bias).reshape(*x.shape[:-1], self.out_features)


def has_fp8_products(device: torch.device) -> bool:
    """Whether products in fp8 are faster on this device than in bf16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def multiply_in_fp8(denoiser: Any, device: torch.device) -> None:
    """Replace the linear layers of the repeated blocks, one after the other; no adapter may be on them.

    The denoiser keeps its fingerprint. Embeddings, norms, first and last layers stay as they are.
    """
    remember_fingerprint(denoiser, fingerprint(denoiser))
    for block in repeated_blocks(denoiser):
        for path, layer in list(block.named_modules()):
            if type(layer) is nn.Linear and not (layer.in_features % MULTIPLE or layer.out_features % MULTIPLE):
                block.set_submodule(path, Fp8Linear(layer, device))


def _encoded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of rows (n, k) and their scales (n, 1) in fp32."""
    scales = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST) / FP8_MOST
    return (rows / scales).clamp(-FP8_MOST, FP8_MOST).to(FP8), scales
