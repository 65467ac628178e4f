"""The rows of a sharded weight, which one process trains.

FSDP2 holds a weight as a DTensor. Its local tensor becomes a separate parameter here, in the same memory: optimizers,
averages and checkpoints use it as an ordinary tensor, and their states are sharded, too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Shard(nn.Parameter):
    """This process's rows of a weight, possibly none. `weight`: the sharded weight, whose memory it uses."""

    weight: Any

    def take_gradient(self) -> None:
        """Move the weight's gradient, which FSDP2 has averaged over the ranks, here; zeros if it has none. Without rows
        there is no gradient, and optimizers skip the parameter."""
        gradient, self.weight.grad = self.weight.grad, None
        if self.numel() > 0:
            self.grad = torch.zeros_like(self) if gradient is None else gradient.to_local()


@torch.no_grad()
def own_parameter(parameter: nn.Parameter) -> nn.Parameter:
    """Return this process's rows of a sharded parameter; any other parameter unchanged."""
    if not isinstance(parameter, DTensor):
        return parameter
    shard = Shard(parameter.to_local())
    shard.weight = parameter
    return shard


def rows_of(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return this process's rows of a tensor of a weight's shape; all where `parameter` is not sharded."""
    if not isinstance(parameter, Shard):
        return whole
    mesh, count = parameter.weight.device_mesh, len(whole)
    rows = -(-count // mesh.size())  # FSDP2 splits like torch.chunk
    first = min(mesh.get_local_rank() * rows, count)
    return whole[first : first + rows]


def as_sharded(rows: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return the DTensor that has `rows` on this process, laid out as the weight of a `Shard`; `rows` for others."""
    if not isinstance(parameter, Shard):
        return rows
    weight = parameter.weight
    return DTensor.from_local(
        rows.to(parameter.device),
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


def norm_of_all(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of gradients of which every process has rows: (). All ranks must call it together."""
    squared: Tensor = reduce(nn.utils.get_total_norm(gradients).square(), "sum")
    return squared.sqrt()
