"""Named random generators, all derived from one seed."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.distributed.batch_share import WHOLE, Share


class NamedGenerators:
    """CPU generators by name. Two names never share a stream, and the order of first use does not matter."""

    def __init__(self, seed: int, share: Share = WHOLE) -> None:
        """`share`: of this process, where several train one batch. Named generators are equal in all processes."""
        self._seed, self.share = seed, share
        self._generators: dict[str, torch.Generator] = {}

    def __getitem__(self, name: str) -> torch.Generator:
        if name not in self._generators:
            self._generators[name] = torch.Generator().manual_seed(self._seed_of(name))
        return self._generators[name]

    def fresh(self, name: str) -> torch.Generator:
        """Return a new generator of this name whose state is not saved: for values that are computed again when a run
        is resumed."""
        return torch.Generator().manual_seed(self._seed_of(name))

    def seed_global(self, step: int) -> None:
        """Seed torch's global generators for one step. Only dropout layers use them, with a different seed in each
        process."""
        process = f"/{self.share.index}" if self.share.index else ""
        torch.manual_seed(self._seed_of(f"step/{step}{process}"))

    def normal(self, name: str, own: Sequence[int]) -> Tensor:
        """Standard normal draws of shape `own` for this process's share of a batch."""
        return self.share.normal(own, self[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every generator that was used."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the states in place: objects that hold a generator keep using it."""
        for name, generator_state in state.items():
            self[name].set_state(generator_state)

    def _seed_of(self, name: str) -> int:
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1
