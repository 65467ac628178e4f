"""The share of a batch that each process trains.

Every process draws the random numbers of the whole batch and uses its own rows, so N small batches have the same
numbers as one large batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Rows = TypeVar("Rows", bound=Sequence[object] | Tensor)


@dataclass(frozen=True)
class Share:
    """Part `index` of `count` equal, consecutive parts of a batch. The default is the whole batch."""

    index: int = 0
    count: int = 1

    def of(self, whole: Rows) -> Rows:
        """This process's rows. The number of rows must be a multiple of `count`."""
        own = len(whole) // self.count
        return whole[self.index * own : (self.index + 1) * own]  # type: ignore[return-value]

    def whole_shape(self, own: Sequence[int]) -> tuple[int, ...]:
        """The shape of the whole batch, from that of this process's part."""
        return (own[0] * self.count, *own[1:])

    def normal(self, own: Sequence[int], generator: torch.Generator) -> Tensor:
        """Standard normal draws of shape `own`, on the CPU."""
        return self.of(torch.randn(self.whole_shape(own), generator=generator))

    def uniform(self, own: Sequence[int], generator: torch.Generator) -> Tensor:
        """Uniform draws in [0, 1) of shape `own`, on the CPU."""
        return self.of(torch.rand(self.whole_shape(own), generator=generator))

    def integers(self, high: int, count: int, generator: torch.Generator) -> Tensor:
        """`count` integers in [0, high): (count,), int64, on the CPU."""
        return self.of(torch.randint(high, (count * self.count,), generator=generator))


WHOLE = Share()
"""The share of a single process."""
