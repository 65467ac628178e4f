"""Gathers weights that may be sharded across processes."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor, or all shards of a sharded one, for which all ranks must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
