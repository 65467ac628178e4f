"""The processes of one training, started by `accelerate launch` or `torchrun`: one per GPU, or a single one.

The main process (rank 0) makes all decisions, writes the files and samples; the other ranks take part in data
preparation and in the steps only. Processes wait in accelerate's collectives. A process that fails ends the launcher,
and with it all ranks.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast, broadcast_object_list, gather_object

from trainer.distributed.batch_share import Share
from trainer.distributed.launch import FSDP_VARIABLE, process_count
from trainer.distributed.shards import Shard

LONGEST_WAIT = timedelta(hours=12)
"""Timeout of a collective. Other ranks may wait for hours while the main process evaluates or samples."""
Value = TypeVar("Value")


def start(mixed_precision: str = "no") -> Accelerator:
    """Initialise the process group, with gloo on CPUs.

    Removes the variable that `accelerate launch --use_fsdp` sets: `sharded_base` shards the denoiser, and transformers
    would otherwise load no text encoder weights on ranks other than the first of each machine.
    """
    os.environ.pop(FSDP_VARIABLE, None)
    waiting = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    on_cpu = process_count() > 1 and not torch.cuda.is_available()
    return Accelerator(mixed_precision=mixed_precision, cpu=on_cpu, kwargs_handlers=[waiting])


@dataclass(frozen=True)
class Processes:
    """Rank and communication. All ranks call the same methods in the same order."""

    accelerator: Accelerator

    @property
    def share(self) -> Share:
        """This rank's share of each batch."""
        return Share(self.accelerator.process_index, self.accelerator.num_processes)

    @property
    def is_single(self) -> bool:
        """Whether there is one process only."""
        return self.share.count == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process (rank 0), which decides and writes."""
        return bool(self.accelerator.is_main_process)

    def broadcast(self, value: Value) -> Value:
        """Send the main process's picklable value to all ranks and return it."""
        return broadcast_object_list([value])[0]

    def gather(self, value: Value) -> list[Value]:
        """The picklable values of all ranks, in rank order."""
        return list(gather_object([value]))

    def broadcast_numbers(self, values: Sequence[float]) -> list[float]:
        """Send the main process's numbers to all ranks and return them. The count must be the same on all ranks."""
        numbers = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return broadcast(numbers).tolist()

    @torch.no_grad()
    def broadcast_parameters(self, parameters: Sequence[torch.Tensor]) -> None:
        """Overwrite the parameters with the main process's. Equal seeds may give different values on different
        machines. Shards are not changed: they are read from files, and every rank has other rows."""
        if not self.is_single:
            for parameter in parameters:
                if not isinstance(parameter, Shard):
                    broadcast(parameter.data)
