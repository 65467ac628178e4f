"""Shards the denoiser across the processes by FSDP2: each rank stores 1/N of every weight.

`fully_shard` gathers a block before it runs, forward and backward, and frees it again; all ranks must take part.
Adapters are added afterwards, so every rank has all of them. If the denoiser's own weights are trained, FSDP2 also
averages their gradients over the ranks, and each updates its own rows (`trainer.distributed.shards`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from accelerate.utils import broadcast
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from families.family import ModelFamily
from families.parts.blocks import blocks_apart
from settings.record import ConfigError
from trainer.distributed.processes import Processes

END = -1
"""Announced at the end of main-only mode. Larger numbers denote blocks, smaller ones functions."""
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Base(Protocol):
    """A base model on several processes. All ranks call the same methods in the same order.

    `sharded`: whether the denoiser is sharded. `answers`: whether the main process can run it, and call functions
    returned by `together`.
    """

    sharded: bool

    @property
    def answers(self) -> bool: ...

    def begin_main_only(self) -> None:
        """From here on only the main process runs the base, without gradients."""

    def end_main_only(self) -> None:
        """From here on all ranks run the base. Other ranks wait here and gather blocks for the main process."""

    def main_only(self) -> AbstractContextManager[None]:
        """Main-only mode for a block of code; it also ends when a generator is closed inside the block."""

    def together(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return `function` as one that all ranks call: in main-only mode a call by the main process is repeated by the
        other ranks, with its arguments, which must be picklable."""


class WholeBase:
    """Every process has the whole base."""

    sharded, answers = False, True

    def begin_main_only(self) -> None:
        """Do nothing."""

    def end_main_only(self) -> None:
        """Do nothing."""

    def main_only(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def together(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return the function."""
        return function


WHOLE = WholeBase()


class ShardedBase:
    """A sharded denoiser. In main-only mode the main process announces each block before it runs, and the other ranks
    gather that block with it. This holds for any order of blocks, and for passes that raise."""

    sharded = True

    def __init__(self, denoiser: nn.Module, processes: Processes) -> None:
        """`denoiser`: without adapters, on the CPU. Its shards go to this process's device."""
        self._processes = processes
        self._device: torch.device = processes.accelerator.device
        self._main_only = False
        self._functions: list[Callable[..., Any]] = []
        self._awaited: Any = None  # announced to the other ranks, not yet gathered here
        blocks = blocks_apart(denoiser)
        mesh = init_device_mesh(self._device.type, (processes.share.count,))
        self._parts: list[Any] = [
            fully_shard(module, mesh=mesh, reshard_after_forward=True) for module in (*blocks, denoiser)
        ]
        for part in self._parts:  # outside inference mode, because training cannot use buffers that are created inside
            part.unshard()
            part.reshard()
        denoiser.to = _stay(denoiser)  # type: ignore[method-assign]
        if processes.is_main:
            for number, part in enumerate(self._parts):
                part.register_forward_pre_hook(self._announcer(number), prepend=True)
            denoiser.register_forward_hook(self._reset_after_pass, always_call=True)

    @property
    def answers(self) -> bool:
        return self._main_only

    def begin_main_only(self) -> None:
        self._main_only = self._processes.is_main

    def end_main_only(self) -> None:
        if self._processes.is_main:
            self._main_only = False
            if self._awaited is not None:  # interrupted between announcement and gathering
                self._awaited.unshard()
            self._announce(END)
            return
        while (number := self._announce(END)) != END:
            if number < END:
                self._functions[END - 1 - number](*self._processes.broadcast(()))
                continue
            self._parts[number].unshard()
            self._parts[number].reshard()

    def together(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        number = END - 1 - len(self._functions)
        self._functions.append(function)

        @wraps(function)
        def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            if not self._main_only:
                return function(*arguments, **named)
            if named:
                raise TypeError("arguments are sent to the other ranks by position")
            self._announce(number)
            self._processes.broadcast(arguments)
            self._main_only = False  # inside it, the other ranks call the same function
            try:
                return function(*arguments, **named)
            finally:
                self._main_only = True

        return call

    @contextmanager
    def main_only(self) -> Iterator[None]:
        """Main-only mode for a block of code. An error ends the main process, and the launcher ends the other ranks."""
        self.begin_main_only()
        try:
            yield
        except GeneratorExit:
            if self._processes.is_main:
                self.end_main_only()
            raise
        self.end_main_only()

    def _announce(self, number: int) -> int:
        """Send the main process's block number, or END, to all ranks."""
        return int(broadcast(torch.tensor([number], device=self._device)))

    def _announcer(self, number: int) -> Callable[[nn.Module, Any], None]:
        def announce(module: nn.Module, inputs: Any) -> None:
            if not self._main_only:
                return
            if torch.is_grad_enabled():
                raise RuntimeError("a single process cannot run a sharded base model with gradients")
            self._announce(number)
            self._awaited = self._parts[number]
            try:
                self._awaited.unshard()
            except torch.OutOfMemoryError as error:  # other ranks are gathering already: no retry
                raise RuntimeError(f"out of memory while a block of the sharded base was gathered: {error}") from error
            self._awaited = None

        return announce

    def _reset_after_pass(self, denoiser: Any, inputs: Any, output: Any) -> None:
        """Clear the state that FSDP keeps for a backward pass, after a pass in main-only mode, also a failed one."""
        if self._main_only:
            denoiser.reset_iter_state()


def _stay(denoiser: nn.Module) -> Callable[..., nn.Module]:
    """A method `to` without effect: shards are on their device. Moving them again ("cpu:0" for "cpu") would copy them,
    and `trainer.distributed.shards` trains them in place."""

    def to(*_: Any, **__: Any) -> nn.Module:
        return denoiser

    return to


def place_base(shard_base: bool, family: ModelFamily, processes: Processes) -> Base:
    """Shard the denoiser if `shard_base` is set. The setting must be equal on all ranks."""
    return ShardedBase(family.denoiser, processes) if shard_base else WHOLE


def require_shardable(base_model: str, family: ModelFamily) -> None:
    """Raises ConfigError if the denoiser has no blocks that can be gathered one by one."""
    try:
        blocks_apart(family.denoiser)
    except ValueError:
        raise ConfigError(
            f"shard_base: the denoiser of {base_model} has no repeated blocks. Use accelerate launch --multi_gpu: each "
            "process then has the whole base model"
        ) from None
