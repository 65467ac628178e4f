"""Forks the server's trainings from a process that has imported the libraries, if the operator enables it.

WARM_WORKER=1 keeps one such process, Python's own fork server. It imports, waits, and forks. It creates no tensors,
threads or CUDA context, so its children can do so. A training that is cancelled or crashes only ends its own child
process. If the fork server itself is killed, the next training starts another one.
"""

import atexit
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import IO

from service.policy.policy import is_off, switch
from service.processes.child_process import PROJECT, ChildProcess
from settings.record import ConfigError
from trainer.distributed.launch import PROCESSES_VARIABLE, processes_of_a_job

WARM_WORKER, KEEP_BASE = "WARM_WORKER", "KEEP_BASE"
LIBRARIES = "service.processes.warm_libraries"
CONTEXT = get_context("forkserver")


def is_wanted() -> bool:
    """Whether the operator has set WARM_WORKER, or KEEP_BASE, which needs it. Raises ConfigError if WARM_WORKER is
    neither 1, 0 nor empty."""
    return switch(WARM_WORKER) or keeps_base()


def keeps_base() -> bool:
    """Whether the operator has set KEEP_BASE (`service.processes.base_keeper`)."""
    return not is_off(os.environ.get(KEEP_BASE, ""))


def prepare_where_wanted() -> None:
    """Start the warm process, which imports in the background. Raises ConfigError if it could not be used."""
    if not is_wanted():
        return
    count = processes_of_a_job()
    if count > 1:
        name = KEEP_BASE if keeps_base() else WARM_WORKER
        raise ConfigError(
            f"{name}: a training has {count} processes here, which torch's launcher starts instead of a fork. Unset "
            f"it, or set {PROCESSES_VARIABLE}=1"
        )
    CONTEXT.set_forkserver_preload([LIBRARIES])
    forkserver.ensure_running()


def start_forked(target: Callable[[], int], environment: Mapping[str, str]) -> ChildProcess:
    """Run `target`, which must be picklable and returns an exit status, in a child of the warm process.

    `environment`: all variables of the child. Raises OSError and EOFError if the warm process has ended.
    """
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=run_command, args=(target, dict(environment), writer))
    try:
        process.start()
    except BaseException:
        reader.close()
        raise
    finally:
        writer.close()
    with reader:
        return ChildProcess(_Forked(process), output_of(reader))


def output_of(reader: Connection) -> IO[str]:
    """Return a file of the lines from the other end of a pipe."""
    return os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace")


class _Forked:
    """A `service.processes.child_process.RunningProcess`."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def run_command(target: Callable[[], int], environment: Mapping[str, str], output: Connection) -> None:
    """The main function of the child: run `target` like a command of a shell, with `output` as stdout and stderr."""
    os.setsid()
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(PROJECT)
    sys.argv = ["train.py"]
    try:
        status = target()
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its children without calling them
    sys.exit(status)
