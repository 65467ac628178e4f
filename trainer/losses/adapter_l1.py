"""L1 penalty on the adapter's parameters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from trainer.losses.term import StepContext
from trainer.trainables.part import Parts


@dataclass(frozen=True)
class AdapterL1:
    """weight · Σ|θ| / #θ over all values θ of the adapter's factors, which are 0 without a change of the base."""

    parameters: Sequence[nn.Parameter] = field(repr=False)
    weight: float
    name: str = "adapter_l1"

    @classmethod
    def of(cls, parts: Parts, names: Iterable[str], weight: float) -> "AdapterL1":
        """The penalty on the named parts, without DoRA's magnitudes: they are the norms of the base's weights, which a
        penalty would shrink."""
        held = [parts[name] for name in names if name in parts]
        spared = {id(parameter) for part in held for parameter in part.undecayed}
        return cls([each for part in held for each in part.parameters if id(each) not in spared], weight)

    def __call__(self, context: StepContext) -> Tensor:
        count = sum(parameter.numel() for parameter in self.parameters)
        total = sum((parameter.abs().sum() for parameter in self.parameters), context.prediction.new_zeros(()).float())
        return self.weight * total / count
