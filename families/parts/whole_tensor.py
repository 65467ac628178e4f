"""Gathers weights that may be sharded across processes."""

from torch import Tensor
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all parts of one that is shared out: for those all processes must come here together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
