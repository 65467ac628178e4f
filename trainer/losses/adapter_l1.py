"""L1 penalty on the adapter's parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from trainer.losses.term import StepContext


@dataclass(frozen=True)
class AdapterL1:
    """weight · Σ|θ| / #θ over all trained values θ of the adapter, in all its factors."""

    parameters: Sequence[nn.Parameter] = field(repr=False)
    weight: float
    name: str = "adapter_l1"

    def __call__(self, context: StepContext) -> Tensor:
        count = sum(parameter.numel() for parameter in self.parameters)
        total = sum((parameter.abs().sum() for parameter in self.parameters), context.prediction.new_zeros(()).float())
        return self.weight * total / count
