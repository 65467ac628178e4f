"""Starts one process of a command per GPU, for a parent process that reads their output.

`python -m trainer.distributed.launcher 2 train.py …`

Uses torchrun's launcher. It prints nothing, forwards signals to the processes and lets them stop by themselves, and
returns the exit status of the process that failed first.
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SECONDS_TO_END = 5
"""Seconds until the other processes are killed after one has failed. They may wait in a collective that ignores
signals."""


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns its exit status; a signal that ended one of the processes ends this process too."""
    count, *command = arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _pass_on)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(count),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGHUP",
        shutdown_timeout=SECONDS_TO_END,
    )
    try:
        elastic_launch(config, sys.executable)("-u", *command)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status < 0:
            os.kill(os.getpid(), -status)
        return status
    return 0


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Forward a signal: torch starts the processes in their own sessions, which the signal does not reach."""
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
