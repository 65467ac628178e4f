"""Operations of the main process on sharded weights, in which the waiting ranks must take part."""

from torch import nn

from trainer.adapters.full import FullFineTuning
from trainer.distributed.sharded_base import Base
from trainer.trainables.averages import Averages


class AdapterOnEveryRank:
    """Full fine-tuning of a sharded component. Implements `trainer.adapters.adapter.ComponentAdapter`."""

    def __init__(self, inner: FullFineTuning, base: Base) -> None:
        self._inner = inner
        self.layers = base.together(inner.layers)
        self.start = base.together(inner.start)
        self.start_over = base.together(inner.start_over)
        self.set_enabled = base.together(inner.set_enabled)
        self.remove = base.together(inner.remove)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return self._inner.parameters

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return self._inner.undecayed


class AveragesOnEveryRank:
    """Averages of sharded weights: each rank has those of its own rows. Implements
    `trainer.trainables.averages.Averages`."""

    def __init__(self, inner: Averages, base: Base) -> None:
        self.follow, self.state_dict, self.load_state_dict = inner.follow, inner.state_dict, inner.load_state_dict
        self.put_in = base.together(inner.put_in)
        self.take_out = base.together(inner.take_out)
