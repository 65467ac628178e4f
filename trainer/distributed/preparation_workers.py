"""The processes of a training prepare its images together: the first one decides and hands out, all of them work.

The items of a piece of work are handed out in rounds, of which the processes take an item each in turn. So results come
in order, an error is the one that a single process would have met first, and no process waits for more than a round.
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
from preprocess.workers.workers import ALONE, Crew, Item, Result, Work
from trainer.distributed.batch_share import Share
from trainer.distributed.launch import processes_of_this_machine
from trainer.distributed.processes import Processes

ITEMS_IN_A_ROUND = 32
"""For each thread of each process. At a round's end threads wait for the last one: 1 in 32 of the time is lost."""
Told = TypeVar("Told")


class Team(Protocol):
    """What the processes tell each other. All of them call the same methods in the same order."""

    @property
    def share(self) -> Share:
        """Which of how many this process is."""

    def of_first(self, value: Told) -> Told:
        """The first process's value, for everyone."""

    def gather(self, value: Told) -> list[Told]:
        """Everyone's values, in order."""


@dataclass(frozen=True)
class Order:
    """A piece of work, as the first process hands it out. See `preprocess.workers.workers.Work`."""

    elsewhere: Callable[[], AbstractContextManager[Callable[[Any], Any]]]
    needs: tuple[Path, ...]
    num_workers: int | None


@dataclass(frozen=True)
class Failed:
    """How an item ended; its process did none of the round's after it."""

    error: Exception


class First:
    """The crew, as the first process sees it. The others are in `assist` until it dismisses them."""

    shared_folder = True

    def __init__(self, team: Team) -> None:
        self._team = team

    def map(self, work: Work[Item, Result], items: Sequence[Item], num_workers: int | None) -> Iterator[Result]:
        """As `Crew.map`."""
        seen_here = tuple(path for path in work.needs if path.exists())
        self._team.of_first(Order(work.elsewhere, seen_here, num_workers))
        ready: Failed | None = None
        for failed in self._team.gather(ready):
            if failed is not None:
                raise failed.error
        round_size = ITEMS_IN_A_ROUND * max(1, threads(num_workers)) * self._team.share.count
        for start in range(0, len(items), round_size):
            handed_out = self._team.of_first(items[start : start + round_size])
            yield from _in_order(_do_part(self._team, work.function, handed_out, num_workers), len(handed_out))
        self._team.of_first(None)

    def dismiss(self) -> None:
        """All is prepared."""
        self._team.of_first(None)


def crew_of(processes: Processes) -> Crew:
    """Whoever is there to prepare, seen from the first process."""
    return ALONE if processes.alone else First(processes)


def assist(team: Team) -> None:
    """The part of every process but the first: work until it says that all is prepared."""
    order: Order | None = None
    while (order := team.of_first(order)) is not None:
        with ExitStack() as stack:
            failed: Failed | None = None
            try:
                _require_seen(order.needs, team)
                function = stack.enter_context(order.elsewhere())
            except Exception as error:
                failed = Failed(_portable(error, team))
            team.gather(failed)
            if failed is not None:
                continue  # the first one ends all
            handed_out: Sequence[Any] | None = None
            while (handed_out := team.of_first(handed_out)) is not None:
                _do_part(team, function, handed_out, order.num_workers)


def threads(num_workers: int | None) -> int:
    """Of this process, which shares the machine's cores with the others on it unless their number is set."""
    return max(1, (os.cpu_count() or 1) // processes_of_this_machine()) if num_workers is None else num_workers


def _do_part(
    team: Team, function: Callable[[Item], Result], handed_out: Sequence[Item], num_workers: int | None
) -> list[list[Result | Failed]]:
    """This process's part of a round; what became of every process's part."""
    own = handed_out[team.share.index :: team.share.count]
    done: list[Result | Failed] = []
    try:
        for result in ordered_map(function, own, threads(num_workers)):
            done.append(result)
    except Exception as error:  # goes to the first process, which raises it when its turn comes
        done.append(Failed(_portable(error, team)))
    return team.gather(done)


def _in_order(parts: Sequence[Sequence[Result | Failed]], count: int) -> Iterator[Result]:
    """The results of a round. A part ends at its first failure, so the first of all comes before what is missing."""
    for number in range(count):
        result = parts[number % len(parts)][number // len(parts)]
        if isinstance(result, Failed):
            raise result.error
        yield result


def _require_seen(needs: Sequence[Path], team: Team) -> None:
    for path in needs:
        if not path.exists():
            raise DatasetError(
                f"{path}: process {team.share.index}, on {socket.gethostname()}, does not see it. All machines need to "
                "see one folder: put the data and --output on a disk that they share"
            )


def _portable(error: Exception, team: Team) -> Exception:
    """The error as another process can raise it, with the place it came from where it is none of the user's data."""
    if team.share.index > 0 and not isinstance(error, DatasetError):
        error.add_note(f"in process {team.share.index}:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class of errors thinks of in its __reduce__ or __init__
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
