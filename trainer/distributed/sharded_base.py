"""The base's denoiser shared out among the processes: of each frozen weight every process keeps one part.

torch's FSDP2 (`fully_shard`) gathers a block when it is run, forward and backward, and gives it up again; all processes
take part in that. What is trained is put on afterwards, so it stays whole in each process, as without.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast
from diffusers import UNet2DConditionModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from families.family import ModelFamily
from settings.record import ConfigError
from trainer.distributed.processes import Processes
from trainer.execution.compiled_blocks import repeated_blocks

END = -1


class Base(Protocol):
    """How the base lies on the processes, which all call the same methods in the same order."""

    def apart(self) -> None:
        """From here on the first process may run the base by itself, without gradients."""

    def together(self) -> None:
        """From here on all run it together, pass by pass. Until then the others wait here, and help the first one."""

    def main_only(self) -> AbstractContextManager[None]:
        """`apart`, and at the end `together`; also when the first one's caller iterates no further."""


class WholeBase:
    """Each process has all of it, and runs it as it likes."""

    def apart(self) -> None:
        """Nothing to do."""

    def together(self) -> None:
        """Nothing to do."""

    def main_only(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()


WHOLE = WholeBase()


class ShardedBase:
    """A denoiser that is shared out for good. Where the first process runs it alone, it says before each block which
    one comes, so that the others gather it too; whatever order the pass takes, and wherever it breaks off."""

    def __init__(self, denoiser: nn.Module, processes: Processes) -> None:
        """`denoiser`: bare, on the CPU; its parts go to this process's device."""
        self._processes = processes
        self._device: torch.device = processes.accelerator.device
        self._alone = False
        self._awaited: Any = None  # what the others gather, and this process does not yet
        blocks = list(repeated_blocks(denoiser))
        mesh = init_device_mesh(self._device.type, (processes.share.count,))
        self._parts: list[Any] = [
            fully_shard(module, mesh=mesh, reshard_after_forward=True) for module in (*blocks, denoiser)
        ]
        for part in self._parts:  # once outside of inference mode: buffers made inside could not be used by a training
            part.unshard()
            part.reshard()
        if processes.is_main:
            for number, part in enumerate(self._parts):
                part.register_forward_pre_hook(self._announcing(number), prepend=True)
            denoiser.register_forward_hook(self._settle, always_call=True)

    def apart(self) -> None:
        self._alone = self._processes.is_main

    def together(self) -> None:
        if self._processes.is_main:
            self._alone = False
            if self._awaited is not None:  # an interruption came in between
                self._awaited.unshard()
            self._tell(END)
            return
        while (number := self._tell(END)) != END:
            self._parts[number].unshard()
            self._parts[number].reshard()

    @contextmanager
    def main_only(self) -> Iterator[None]:
        """An error does not bring them together again: it ends the first process, and its launcher the others."""
        self.begin_main_only()
        try:
            yield
        except GeneratorExit:
            if self._processes.is_main:
                self.end_main_only()
            raise
        self.end_main_only()

    def _tell(self, number: int) -> int:
        """The first process's number."""
        return int(broadcast(torch.tensor([number], device=self._device)))

    def _announcing(self, number: int) -> Callable[[nn.Module, Any], None]:
        def announce(module: nn.Module, inputs: Any) -> None:
            if not self._alone:
                return
            if torch.is_grad_enabled():
                raise RuntimeError("a sharded base cannot be run by one process alone with gradients")
            self._tell(number)
            self._awaited = self._parts[number]
            try:
                self._awaited.unshard()
            except torch.OutOfMemoryError as error:  # the others are waiting already: this cannot be tried again
                raise RuntimeError(f"out of memory while a block of the sharded base was gathered: {error}") from error
            self._awaited = None

        return announce

    def _settle(self, denoiser: Any, inputs: Any, output: Any) -> None:
        """After a pass of the first process alone, also one that failed: FSDP keeps notes of it for a backward pass."""
        if self._alone:
            denoiser.reset_iter_state()


def place_base(shard_base: bool, family: ModelFamily, processes: Processes) -> Base:
    """As the setting says, which all processes must have alike."""
    return ShardedBase(family.denoiser, processes) if shard_base else WHOLE


def require_shardable(base_model: str, family: ModelFamily) -> None:
    """Raises ConfigError for a base that cannot be sharded: its weights do not lie in transformer blocks."""
    if isinstance(family.denoiser, UNet2DConditionModel):
        raise ConfigError(
            f"shard_base: the denoiser of {base_model} is a UNet, whose weights lie outside of repeated blocks; "
            "transformers (SD3) can be sharded. Leave it out (accelerate launch --multi_gpu): each process then has "
            "the whole base"
        )
