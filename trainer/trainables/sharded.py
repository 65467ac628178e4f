"""A trainable whose parameters are shards: every process updates, averages and saves its own rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from settings.record import ConfigError
from trainer.checkpoints.same_run import OUTLINE
from trainer.checkpoints.sharded_state import outline, read_shards, write_shards
from trainer.checkpoints.state_file import size_of
from trainer.distributed.on_every_rank import AveragesOnEveryRank
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import Base
from trainer.distributed.shards import norm_of_all
from trainer.trainables.trainable import Trainable


class ShardedTrainable(Trainable):
    """In main-only mode the other ranks repeat the main process's operations on it."""

    sharded = True

    def __init__(self, *given: Any, base: Base, processes: Processes, **settings: Any) -> None:
        """`given`, `settings`: as of `Trainable`."""
        super().__init__(*given, **settings)
        self._share = processes.share
        self.averages = AveragesOnEveryRank(self.averages, base)
        self._write, self._load = base.together(self._write_own), base.together(self._load_own)

    def clip(self) -> torch.Tensor:
        """Clip the gradient by the norm of all processes' rows. Returns that norm: ()."""
        norm = norm_of_all([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        nn.utils.clip_grads_with_norm_(self.parameters, self._max_grad_norm, norm)
        return norm

    @property
    def bytes_in_shards(self) -> int:
        return self._share.count * size_of(super().state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the state without its tensors, which `write_shards` writes."""
        return {OUTLINE: outline(super().state_dict())}

    def write_shards(self, folder: Path) -> None:
        self._write(folder)

    def load_state_dict(self, state: Mapping[str, Any], step: int, folder: Path | None = None) -> None:
        """Load a state from after `step` steps, whose tensors are in `folder`. Raises ConfigError if it is damaged."""
        if folder is None:
            raise ValueError(f"{self.name}: the state of shards is read from a checkpoint's folder")
        self._load(state, step, folder)

    def _write_own(self, folder: Path) -> None:
        write_shards(folder / self.name, super().state_dict(), self.parameters, self._share.index)

    def _load_own(self, state: Mapping[str, Any], step: int, folder: Path) -> None:
        try:
            own = read_shards(folder / self.name, state[OUTLINE], self.parameters, self._share.index)
        except (OSError, KeyError, ValueError, SafetensorError, CheckpointException) as error:
            raise ConfigError(f"resume: {folder} is not a complete checkpoint ({error}). Choose another one") from error
        pairs = zip(own["optimizer"], self.parameters, strict=True)
        remembered = [each if shard.numel() > 0 else {} for each, shard in pairs]
        super().load_state_dict({**own, "optimizer": remembered}, step)
