"""The processes that prepare images: a single one, or the main process of a training with its workers.

The result must not depend on them: it is the same, file for file, for any number of processes.
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
    """A function that is applied to each of many items.

    `function` is used in this process. `open_in_worker` creates the same function in another process and frees its
    resources afterwards; it, the items and the results must be picklable. `needs` lists the files and folders that
    every process must be able to read.
    """

    function: Callable[[Item], Result]
    open_in_worker: Callable[[], AbstractContextManager[Callable[[Item], Result]]]
    needs: Sequence[Path] = ()

    @classmethod
    def of(cls, function: Callable[[Item], Result], needs: Sequence[Path] = ()) -> "Work[Item, Result]":
        """Work whose `function` is picklable and needs no set-up."""
        return cls(function, partial(without_setup, function), needs)


def without_setup(function: Callable[[Item], Result]) -> AbstractContextManager[Callable[[Item], Result]]:
    """A context manager that returns `function` and holds no resources."""
    return nullcontext(function)


class Workers(Protocol):
    """The processes that prepare images, as the main process uses them."""

    @property
    def shared_folder(self) -> bool:
        """Whether other processes read the unpacked files. They are then unpacked inside the output folder."""

    def map(self, work: Work[Item, Result], items: Sequence[Item], num_workers: int | None) -> Iterator[Result]:
        """Yield the result of each item, in order.

        `num_workers`: threads per process; None: one per core, 0: the caller's own thread. An exception is raised at
        the place of its item, as a single process would raise it.
        """

    def release(self) -> None:
        """Notify the other processes that no work follows."""


class SingleProcess:
    """Only this process. Implements `Workers`."""

    shared_folder = False

    def map(self, work: Work[Item, Result], items: Sequence[Item], num_workers: int | None) -> Iterator[Result]:
        """See `Workers.map`."""
        return ordered_map(work.function, items, num_workers)

    def release(self) -> None:
        """Do nothing."""


SINGLE_PROCESS = SingleProcess()
