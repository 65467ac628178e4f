"""The processes of one training, started by `accelerate launch` or `torchrun`: one for each GPU, or a single one.

The first one decides, writes and samples; the others only share the preparation of images and the steps. Whoever waits
does so in one of accelerate's collectives, and a process that ends with an error ends the launcher and thereby all.
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

LONGEST_WAIT = timedelta(hours=12)
"""The others wait while the first one captions and crops the images: 100,000 of them take hours."""
Value = TypeVar("Value")


def start(mixed_precision: str = "no") -> Accelerator:
    """Join the other processes, where there are any. On CPUs they talk through gloo.

    That accelerate launch was told --use_fsdp is forgotten here: `sharded_base` does it, and transformers would
    otherwise leave the text encoders of all processes but a machine's first one without weights.
    """
    os.environ.pop(FSDP_VARIABLE, None)
    waiting = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    on_cpu = process_count() > 1 and not torch.cuda.is_available()
    return Accelerator(mixed_precision=mixed_precision, cpu=on_cpu, kwargs_handlers=[waiting])


@dataclass(frozen=True)
class Processes:
    """What the processes tell each other. All of them call the same methods in the same order."""

    accelerator: Accelerator

    @property
    def share(self) -> Share:
        """What this process takes of each batch."""
        return Share(self.accelerator.process_index, self.accelerator.num_processes)

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.share.count == 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes and decides."""
        return bool(self.accelerator.is_main_process)

    def of_first(self, value: Value) -> Value:
        """The first process's value, small and of plain types, for everyone."""
        return broadcast_object_list([value])[0]

    def gather(self, value: Value) -> list[Value]:
        """Everyone's values, of plain types, in the order of the processes."""
        return list(gather_object([value]))

    def figures_of_first(self, values: Sequence[float]) -> list[float]:
        """The first process's figures: as many as everybody has."""
        told = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        return broadcast(told).tolist()

    @torch.no_grad()
    def equalise(self, parameters: Sequence[torch.Tensor]) -> None:
        """Give everyone the first process's tensors. Started from one seed they are alike, but on unlike machines."""
        if not self.alone:
            for parameter in parameters:
                broadcast(parameter.data)
