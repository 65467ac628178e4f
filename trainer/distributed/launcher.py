"""Starts a command once for each GPU, for parents that read its lines.

`python -m trainer.distributed.launcher 2 train.py …`

It is torchrun's own launcher, but says nothing itself, leaves stopping to the processes, to which it passes signals on,
and ends as the first one that failed did.
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
"""For the others when one failed: they may wait for it where no signal gets through."""


def main(arguments: Sequence[str]) -> int:
    """Run the command to its end. Returns its status; dies of the signal that one of its processes died of."""
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
    """torch starts the processes in sessions of their own, which no signal to this one's reaches."""
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
