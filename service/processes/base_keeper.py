"""A process that keeps one base model in main memory, if the operator enables it. Trainings on it are forked from it.

KEEP_BASE=1 keeps the base model of the last successful training; KEEP_BASE=NAME loads this one when the server starts.
The process is forked from the warm process (`service.processes.warm_worker`), loads the base model with one thread,
does not start CUDA, and forks. A training shares its memory pages (copy-on-write), so that neither its changes nor a
crash affect the base model. The training reads its command from a pipe, so that the keeping process never sees it.
"""

import atexit
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Literal

import psutil

from families.loading.allowed import require_allowed
from families.loading.sources import find_base_model
from service.policy.policy import is_off, is_on
from service.processes.child_process import POLL_SECONDS, ChildProcess
from service.processes.warm_worker import CONTEXT, KEEP_BASE, keeps_base, output_of, run_command
from settings.sections.optimization import PrecisionName
from settings.training import TrainingConfig

FORK = get_context("fork")
UNKNOWN_STATUS = 255
"""Exit status of a training whose parent was killed, as in Python's own fork server."""


@dataclass(frozen=True)
class BaseOfTraining:
    """The settings that determine the weights in memory. `adapter`: full, with fp32 weights, otherwise lora."""

    base_model: str
    base_revision: str | None = None
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    zero_terminal_snr: bool = False
    adapter: Literal["lora", "full"] = "lora"
    mixed_precision: PrecisionName = "auto"

    @classmethod
    def of(cls, config: TrainingConfig) -> "BaseOfTraining | None":
        """Return the base model of a training; None if it is not kept: a single file with its own configuration."""
        if config.base_config is not None:
            return None
        return cls(
            config.base_model, config.base_revision, config.prediction_type, config.zero_terminal_snr,
            "full" if config.trains_base else "lora", config.mixed_precision,
        )  # fmt: skip


def first_base() -> BaseOfTraining | None:
    """Return the base model of KEEP_BASE; None if that is 1 or not set. Raises BaseModelError if it does not exist
    or is not allowed."""
    value = os.environ.get(KEEP_BASE, "").strip()
    if is_off(value) or is_on(value):
        return None
    require_allowed(KEEP_BASE, value)
    find_base_model(value, KEEP_BASE)
    return BaseOfTraining(value)


class BaseKeeper:
    """The server's handle of the process that keeps `base`. `is_current`: False if its files have changed since."""

    def __init__(self, base: BaseOfTraining) -> None:
        """Start the process; it loads in the background. Raises OSError and EOFError if the warm process has ended."""
        self.base, self.is_current = base, True
        self.connection, theirs = CONTEXT.Pipe(duplex=True)
        with theirs:
            self._process = CONTEXT.Process(target=_keep, args=(base, theirs), name=f"base {base.base_model}")
            self._process.start()
        atexit.register(self.connection.close)  # otherwise the server would wait for the process at its end

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def start(self, target: Callable[[], int], environment: Mapping[str, str]) -> ChildProcess:
        """Run `target` in a fork of the process, as `service.processes.warm_worker.start_forked`. Waits until the base
        is loaded. Raises OSError and EOFError if the process has ended."""
        try:
            return self._start(target, environment)
        except BaseException:  # its later answers would belong to no training
            self.stop()
            raise

    def _start(self, target: Callable[[], int], environment: Mapping[str, str]) -> ChildProcess:
        reader, writer = CONTEXT.Pipe(duplex=False)
        command, ours = CONTEXT.Pipe(duplex=False)
        with reader, ours:
            with writer, command:
                for end in (command, writer):
                    send_handle(self.connection, end.fileno(), self._process.pid)
                pid = self.connection.recv()
            ours.send((target, dict(environment)))
            return ChildProcess(_Kept(pid, self), output_of(reader))

    def stop(self) -> None:
        """End the process, and free its memory."""
        atexit.unregister(self.connection.close)
        self.connection.close()
        self._process.kill()
        self._process.join()


class KeptBases:
    """The process that keeps a base, and its replacement."""

    def __init__(self) -> None:
        self._keeper: BaseKeeper | None = None

    def keeper_of(self, base: BaseOfTraining | None) -> BaseKeeper | None:
        """Return the process that keeps this base model; None without one."""
        keeper = self._keeper
        return keeper if keeper is not None and base is not None and keeper.base == base else None

    def keep(self, base: BaseOfTraining | None) -> None:
        """Replace the kept base model by this one, unless it is kept already or the operator has disabled it. A failure
        is logged."""
        if base is None or not keeps_base():
            return
        if self._keeper is not None:
            if self._keeper.base == base and self._keeper.is_current and self._keeper.is_alive:
                return
            self._keeper.stop()
            self._keeper = None
        try:
            self._keeper = BaseKeeper(base)
        except (OSError, EOFError) as error:  # the warm process was killed; the next training starts it again
            print(f"warning: {KEEP_BASE}: {base.base_model} is not kept ({error!r})", flush=True)


KEPT_BASES = KeptBases()


class _Kept:
    """A `service.processes.child_process.RunningProcess` whose exit status is sent by the keeping process."""

    def __init__(self, pid: int, keeper: BaseKeeper) -> None:
        self.pid, self._keeper = pid, keeper
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            try:
                if self._keeper.connection.poll():
                    self._receive()
            except (EOFError, OSError):
                self._status = UNKNOWN_STATUS if _has_ended(self.pid) else None
        return self._status

    def wait(self) -> int:
        while self._status is None:
            try:
                self._receive()
            except (EOFError, OSError):
                time.sleep(POLL_SECONDS)
                self._status = UNKNOWN_STATUS if _has_ended(self.pid) else None
        return self._status

    def _receive(self) -> None:
        self._status, self._keeper.is_current = self._keeper.connection.recv()


def _has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _keep(base: BaseOfTraining, server: Connection) -> None:
    """Main function of the process: load the base model, fork trainings until the server closes the connection."""
    import torch

    from families.errors import BaseModelError
    from families.registry import keep_base_model

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    try:
        keep_base_model(
            base.base_model, getattr(torch, _dtype_from_child(base)), prediction_type=base.prediction_type,
            zero_terminal_snr=base.zero_terminal_snr, base_revision=base.base_revision,
        )  # fmt: skip
    except BaseModelError as error:
        print(f"warning: {KEEP_BASE}: {error}", flush=True)
        return
    gc.freeze()  # a garbage collection in a training would write to every object, and copy its page
    print(f"{KEEP_BASE}: {base.base_model} is kept in memory", flush=True)
    with suppress(EOFError, OSError):
        _fork_trainings(server, threads)


def _fork_trainings(server: Connection, threads: int) -> None:
    """Fork a training for each pair of handles. Returns after a training that found the base model out of date; raises
    EOFError when the server closes the connection. `threads`: number of torch threads in a training."""
    changed = FORK.Value("b", 0, lock=False)
    while not changed.value:
        command = Connection(recv_handle(server), writable=False)
        output = Connection(recv_handle(server), readable=False)
        training = FORK.Process(target=_train, args=(command, output, server, threads, changed))
        training.start()
        for end in (command, output):
            end.close()
        server.send(training.pid)
        training.join()
        server.send((training.exitcode, not changed.value))


def _train(command: Connection, output: Connection, server: Connection, threads: int, changed: Any) -> None:
    """The main function of a training: read the command and run it. `changed`: shared with the keeping process."""
    import torch

    from families.loading.kept_base import KEPT

    server.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if threads > 1:
        torch.set_num_threads(threads)
    try:
        with command:
            target, environment = command.recv()
    except EOFError:  # the server has cancelled it
        return
    try:
        run_command(target, environment, output)
    finally:
        changed.value = KEPT.out_of_date


def _dtype_from_child(base: BaseOfTraining) -> str:
    """Return the name of the base model's dtype in a training. A child determines it, since that may start CUDA."""
    reader, writer = FORK.Pipe(duplex=False)
    with reader, writer:
        child = FORK.Process(target=_send_dtype, args=(base, writer))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"{KEEP_BASE}: the precision of {base.base_model} cannot be determined")
        return str(reader.recv())


def _send_dtype(base: BaseOfTraining, writer: Connection) -> None:
    from trainer.base_model import precision

    writer.send(str(precision(base.adapter, base.mixed_precision)).removeprefix("torch."))
