"""Prepares the images of a distributed training in all of its processes. The main process assigns the work.

Items are assigned in rounds; within a round item i goes to rank i modulo the number of processes. Results therefore
arrive in order, the first error is the one that a single process would raise, and no process waits longer than a round.
"""

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from preprocess.errors import DatasetError
from preprocess.workers.parallel import ordered_map
from preprocess.workers.workers import SINGLE_PROCESS, Item, Result, Work, Workers
from trainer.distributed.batch_share import Share
from trainer.distributed.launch import processes_of_this_machine
from trainer.distributed.processes import Processes

ITEMS_IN_A_ROUND = 32
"""Items per thread of each process in a round. Threads wait at its end, which costs at most 1/32 of the time."""
Value = TypeVar("Value")


class Collectives(Protocol):
    """Communication between the processes. All ranks call the same methods in the same order."""

    @property
    def share(self) -> Share:
        """Rank and number of processes."""

    def broadcast(self, value: Value) -> Value:
        """Send the main process's value to all ranks and return it."""

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks, in rank order, on every rank."""


@dataclass(frozen=True)
class Assignment:
    """The part of a `preprocess.workers.workers.Work` that the main process sends to the workers."""

    open_in_worker: Callable[[], AbstractContextManager[Callable[[Any], Any]]]
    needs: tuple[Path, ...]
    num_workers: int | None


@dataclass(frozen=True)
class Failed:
    """The error of an item. Its process skips its remaining items of the round."""

    error: Exception


class DistributedWorkers:
    """The main process and its workers. Implements `Workers`; the other ranks run `run_worker` until `release`."""

    shared_folder = True

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives

    def map(self, work: Work[Item, Result], items: Sequence[Item], num_workers: int | None) -> Iterator[Result]:
        """See `Workers.map`."""
        seen_here = tuple(path for path in work.needs if path.exists())
        self._collectives.broadcast(Assignment(work.open_in_worker, seen_here, num_workers))
        ready: Failed | None = None
        for failed in self._collectives.gather(ready):
            if failed is not None:
                raise failed.error
        round_size = ITEMS_IN_A_ROUND * max(1, threads(num_workers)) * self._collectives.share.count
        for start in range(0, len(items), round_size):
            assigned = self._collectives.broadcast(items[start : start + round_size])
            yield from _in_order(_do_part(self._collectives, work.function, assigned, num_workers), len(assigned))
        self._collectives.broadcast(None)

    def release(self) -> None:
        """Let `run_worker` return in the other processes."""
        self._collectives.broadcast(None)


def workers_of(processes: Processes) -> Workers:
    """The workers of a training, for its main process."""
    return SINGLE_PROCESS if processes.is_single else DistributedWorkers(processes)


def run_worker(collectives: Collectives) -> None:
    """Execute assignments until the main process releases the workers. For every rank but 0."""
    assignment: Assignment | None = None
    while (assignment := collectives.broadcast(assignment)) is not None:
        with ExitStack() as stack:
            failed: Failed | None = None
            try:
                _require_seen(assignment.needs, collectives)
                function = stack.enter_context(assignment.open_in_worker())
            except Exception as error:
                failed = Failed(_portable(error, collectives))
            collectives.gather(failed)
            if failed is not None:
                continue  # the main process raises it, and the launcher ends all ranks
            assigned: Sequence[Any] | None = None
            while (assigned := collectives.broadcast(assigned)) is not None:
                _do_part(collectives, function, assigned, assignment.num_workers)


def threads(num_workers: int | None) -> int:
    """Threads of this process: `num_workers`, or its part of the machine's cores where that is None."""
    return max(1, (os.cpu_count() or 1) // processes_of_this_machine()) if num_workers is None else num_workers


def _do_part(
    collectives: Collectives, function: Callable[[Item], Result], assigned: Sequence[Item], num_workers: int | None
) -> list[list[Result | Failed]]:
    """Process this rank's items of a round. Returns the results of all ranks, in rank order."""
    own = assigned[collectives.share.index :: collectives.share.count]
    done: list[Result | Failed] = []
    try:
        for result in ordered_map(function, own, threads(num_workers)):
            done.append(result)
    except Exception as error:  # the main process raises it at the place of its item
        done.append(Failed(_portable(error, collectives)))
    return collectives.gather(done)


def _in_order(parts: Sequence[Sequence[Result | Failed]], count: int) -> Iterator[Result]:
    """The results of a round, in order. A part ends at its first error, which is raised before a missing item."""
    for number in range(count):
        result = parts[number % len(parts)][number // len(parts)]
        if isinstance(result, Failed):
            raise result.error
        yield result


def _require_seen(needs: Sequence[Path], collectives: Collectives) -> None:
    for path in needs:
        if not path.exists():
            raise DatasetError(
                f"{path}: process {collectives.share.index}, on {socket.gethostname()}, cannot read it. All machines "
                "need the same folder: put the data and --output on a shared disk"
            )


def _portable(error: Exception, collectives: Collectives) -> Exception:
    """The error in a form that can be pickled. Errors other than DatasetError carry this rank's stack trace."""
    if collectives.share.index > 0 and not isinstance(error, DatasetError):
        error.add_note(f"in process {collectives.share.index}:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # __reduce__ and __init__ of an exception class may raise anything
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
