"""Muon (Jordan et al. 2024): momentum with orthogonalised matrices. On models of this size, a step is as effective as
several of AdamW, which is used for the other weights."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
BETAS = (0.9, 0.99)
EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """`matrices` are updated by Muon, convolutions as (out, in × height × width); `others` by AdamW without decay. Each
    group has its learning rate; Muon's updates are scaled to AdamW's size (Liu et al. 2025)."""

    def __init__(self, matrices: Iterable[Tensor], others: Iterable[Tensor], rate: float, others_rate: float) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": rate, "orthogonal": True},
            {"params": list(others), "lr": others_rate, "orthogonal": False},
        ]
        super().__init__(groups, {})
        for group in self.param_groups:
            group["full_rate"] = group["lr"]

    def scale_rates(self, factor: float) -> None:
        """Set each group's learning rate to `factor` times its initial one."""
        for group in self.param_groups:
            group["lr"] = group["full_rate"] * factor

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            update = self._orthogonal_update if group["orthogonal"] else self._adam_update
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.add_(update(weight, weight.grad), alpha=-group["lr"])

    def _orthogonal_update(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
        matrix = (gradient + MOMENTUM * momentum).reshape(len(weight), -1)
        return (orthogonalized(matrix) * 0.2 * math.sqrt(max(matrix.shape))).view(weight.shape)

    def _adam_update(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        step = state["step"].add_(1).item()
        mean = state["mean"].lerp_(gradient, 1 - BETAS[0]) / (1 - BETAS[0] ** step)
        square = state["square"].lerp_(gradient.square(), 1 - BETAS[1]) / (1 - BETAS[1] ** step)
        return mean / (square.sqrt() + EPSILON)


def orthogonalized(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Approximately the nearest matrix with singular values of 1, by a Newton-Schulz iteration in bfloat16: (N, M)."""
    tall = matrix.shape[0] > matrix.shape[1]
    value = matrix.bfloat16().T if tall else matrix.bfloat16()
    value = value / (value.norm() + 1e-7)
    for _ in range(iterations):
        square = value @ value.T
        value = 3.4445 * value + (-4.7750 * square + 2.0315 * square @ square) @ value
    return (value.T if tall else value).float()


def hidden_matrices(*modules: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights for Muon, and all others: those of linear layers and convolutions with at least 16 channels on either
    side. Embeddings are not included."""
    fit = {
        id(layer.weight)
        for module in modules
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and min(layer.weight.shape[:2]) >= 16
    }
    weights = [weight for module in modules for weight in module.parameters()]
    return [one for one in weights if id(one) in fit], [one for one in weights if id(one) not in fit]
