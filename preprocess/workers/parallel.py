"""Maps a function over many items in threads, in order and with bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int | None = None
) -> Iterator[Result]:
    """Yield `function` of each item, in order. Threads suffice: Pillow and numpy release the interpreter lock.

    `num_workers`: number of threads; None: one per core; 0: the caller's thread. An exception of `function` is raised
    at the place of its item; closing the iterator cancels waiting items.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    workers = num_workers or os.cpu_count() or 1
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
