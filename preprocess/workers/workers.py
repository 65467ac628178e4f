"""Who prepares: this process alone, or several of which the first one decides and all of them work.

What is worked on must not depend on who does it: the result is the same, file for file, whatever the crew.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from preprocess.workers.parallel import ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What is done to each of many items. `function` does it in this process.

    `elsewhere` makes the same function in another process, for as long as it is wanted there; it must be picklable, as
    items and results must. `needs`: files and folders that every process must see.
    """

    function: Callable[[Item], Result]
    elsewhere: Callable[[], AbstractContextManager[Callable[[Item], Result]]]
    needs: Sequence[Path] = ()

    @classmethod
    def of(cls, function: Callable[[Item], Result], needs: Sequence[Path] = ()) -> "Work[Item, Result]":
        """Of a function that can be pickled itself."""
        return cls(function, partial(as_it_is, function), needs)


def as_it_is(function: Callable[[Item], Result]) -> AbstractContextManager[Callable[[Item], Result]]:
    """A function that needs nothing to be opened or let go of."""
    return nullcontext(function)


class Crew(Protocol):
    """The processes that prepare."""

    @property
    def shared_folder(self) -> bool:
        """Whether others must see what is unpacked: then it lies in the output, not in this machine's own folder."""

    def map(self, work: Work[Item, Result], items: Sequence[Item], num_workers: int | None) -> Iterator[Result]:
        """The result of each item, in order. `num_workers`: threads of each process; None: all cores, 0: none.

        An exception is raised when the turn of its item comes, as from a single process.
        """

    def dismiss(self) -> None:
        """All is prepared: the others need not wait for more."""


class Alone:
    """This process, and no other."""

    shared_folder = False

    def map(self, work: Work[Item, Result], items: Sequence[Item], num_workers: int | None) -> Iterator[Result]:
        """As `Crew.map`."""
        return ordered_map(work.function, items, num_workers)

    def dismiss(self) -> None:
        """There is nobody."""


ALONE = Alone()
