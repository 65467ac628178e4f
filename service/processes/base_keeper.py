"""A process that keeps one base model in main memory, if the operator enables it: trainings on it are forked from it.

KEEP_BASE=1 keeps the base of the last training that succeeded; KEEP_BASE=NAME loads this one when the server starts.
The process is forked from the warm process (`service.processes.warm_worker`), loads the base with one thread, starts no
CUDA, and forks. A training shares its pages until it writes to them: what it changes, how it ends and who kills it
does not touch the base. It reads its own command from a pipe, so that nothing of it stays in the process that lives on.
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
"""Of a training whose parent was killed, as in Python's own fork server."""


@dataclass(frozen=True)
class BaseOfTraining:
    """What decides the weights in memory. `adapter`: full, where they are fp32, else lora."""

    base_model: str
    base_revision: str | None = None
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    zero_terminal_snr: bool = False
    adapter: Literal["lora", "full"] = "lora"
    mixed_precision: PrecisionName = "auto"

    @classmethod
    def of(cls, config: TrainingConfig) -> "BaseOfTraining | None":
        """The base of a training; None for one that is not kept: a single file with a configuration of its own."""
        if config.base_config is not None:
            return None
        return cls(
            config.base_model, config.base_revision, config.prediction_type, config.zero_terminal_snr,
            "full" if config.trains_base else "lora", config.mixed_precision,
        )  # fmt: skip


def first_base() -> BaseOfTraining | None:
    """The base that KEEP_BASE names; None where it is 1 or not set. Raises BaseModelError for one that is not there, or
    not allowed."""
    value = os.environ.get(KEEP_BASE, "").strip()
    if is_off(value) or is_on(value):
        return None
    require_allowed(KEEP_BASE, value)
    find_base_model(value, KEEP_BASE)
    return BaseOfTraining(value)


class BaseKeeper:
    """The process that keeps `base`, seen from the server. `is_current`: False where its files have changed since."""

    def __init__(self, base: BaseOfTraining) -> None:
        """Start it. It loads in the background. Raises OSError and EOFError if the warm process has ended."""
        self.base, self.is_current = base, True
        self.connection, theirs = CONTEXT.Pipe(duplex=True)
        with theirs:
            self._process = CONTEXT.Process(target=_keep, args=(base, theirs), name=f"base {base.base_model}")
            self._process.start()
        atexit.register(self.connection.close)  # else the server would wait for it when it ends

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def start(self, target: Callable[[], int], environment: Mapping[str, str]) -> ChildProcess:
        """Run `target` in a fork of the process, as `service.processes.warm_worker.start_forked`. Waits until the base
        is loaded. Raises OSError and EOFError where the process has ended."""
        try:
            return self._start(target, environment)
        except BaseException:  # what it answers now belongs to no training
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
        """The process that keeps this base; None without one."""
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
        except (OSError, EOFError) as error:  # the warm process was killed; the next training starts another one
            print(f"warning: {KEEP_BASE}: {base.base_model} is not kept ({error!r})", flush=True)


KEPT_BASES = KeptBases()


class _Kept:
    """A `service.processes.child_process.RunningProcess`, whose exit status the keeper sends."""

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
    """In the process: load the base, and fork trainings until the server closes the connection."""
    import torch

    from families.errors import BaseModelError
    from families.registry import keep_base_model

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the server's
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's threads would not exist after a fork
    try:
        keep_base_model(
            base.base_model, getattr(torch, _told_by_a_child(base)), prediction_type=base.prediction_type,
            zero_terminal_snr=base.zero_terminal_snr, base_revision=base.base_revision,
        )  # fmt: skip
    except BaseModelError as error:
        print(f"warning: {KEEP_BASE}: {error}", flush=True)
        return
    gc.freeze()  # a collection in a training would write to each object that it goes through
    print(f"{KEEP_BASE}: {base.base_model} is kept in memory", flush=True)
    with suppress(EOFError, OSError):
        _fork_trainings(server, threads)


def _fork_trainings(server: Connection, threads: int) -> None:
    """Fork a training for each pair of handles. Returns after one that found the base out of date; raises EOFError when
    the server closes the connection. `threads`: of torch, in a training."""
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
    """In a training: read what to run, and run it. `changed`: shared with the process that keeps the base."""
    import torch

    from families.loading.kept_base import KEPT

    server.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if threads > 1:
        torch.set_num_threads(threads)
    try:
        with command:
            target, environment = command.recv()
    except EOFError:  # the server gave it up
        return
    try:
        run_command(target, environment, output)
    finally:
        changed.value = KEPT.out_of_date


def _told_by_a_child(base: BaseOfTraining) -> str:
    """The name of the dtype in which such a training has the base: the question may start CUDA, so a child asks it."""
    reader, writer = FORK.Pipe(duplex=False)
    with reader, writer:
        child = FORK.Process(target=_tell_dtype, args=(base, writer))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"{KEEP_BASE}: the precision of {base.base_model} is not known")
        return str(reader.recv())


def _tell_dtype(base: BaseOfTraining, writer: Connection) -> None:
    from trainer.base_model import precision

    writer.send(str(precision(base.adapter, base.mixed_precision)).removeprefix("torch."))
