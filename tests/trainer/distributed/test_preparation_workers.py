"""Tests that several processes prepare the same files as one process, and raise the same errors.

The processes are simulated by threads that exchange pickled values, as real ones do; test_several_processes.py has
real ones.
"""

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocess.captioners import kinds
from preprocess.captioners.captioner import Captioner
from preprocess.captioners.choice import CaptionerChoice
from preprocess.errors import DatasetError
from preprocess.prepare import preparing
from preprocess.progress import StageProgress
from preprocess.workers.relay import drain
from preprocess.workers.workers import SINGLE_PROCESS, Work
from settings.preparation import DataConfig
from settings.public import public_name
from settings.record import build_settings
from tests.trainer.distributed.shared_preparation import contents, prepared, write_shards
from trainer.distributed.batch_share import Share
from trainer.distributed.preparation_workers import DistributedWorkers, run_worker, threads

PATIENCE = 60.0
"""Seconds to wait for the other threads."""
COUNT = 3


@dataclass
class Table:
    """The shared state of simulated processes."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(COUNT, timeout=PATIENCE))
    told: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Seat:
    """A simulated process. Implements `trainer.distributed.preparation_workers.Collectives`."""

    table: Table
    index: int
    messages: int = 0

    @property
    def share(self) -> Share:
        return Share(self.index, COUNT)

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def gather(self, value: Any) -> list[Any]:
        self.messages += 1
        self.table.told[self.index] = pickle.dumps(value)
        self.table.barrier.wait()
        everything = [pickle.loads(self.table.told[index]) for index in range(COUNT)]
        self.table.barrier.wait()
        return everything


@pytest.fixture
def workers() -> Iterator[DistributedWorkers]:
    """The workers of three processes, as threads, until the test releases them or fails."""
    table = Table()
    others = [threading.Thread(target=_work, args=(Seat(table, index),), daemon=True) for index in range(1, COUNT)]
    for other in others:
        other.start()
    yield DistributedWorkers(Seat(table, 0))
    table.barrier.abort()
    for other in others:
        other.join(PATIENCE)
        assert not other.is_alive()


def _work(seat: Seat) -> None:
    try:
        run_worker(seat)
    except threading.BrokenBarrierError:  # the main process has ended
        return


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"duplicates": "keep", "augmented_views": 2, "crop_jitter": 0.2, "horizontal_flip": True},
        {"mask": "face", "crop": "face", "face_detector": "haar"},
    ],
)
def test_the_result_is_that_of_one_process_file_for_file(
    options: dict[str, Any], workers: DistributedWorkers, tmp_path: Path
) -> None:
    source = write_shards(tmp_path / "shards")
    alone = prepared([source], tmp_path / "alone", SINGLE_PROCESS, **options)
    together = prepared([source], tmp_path / "together", workers, **options)
    assert alone.rejected and alone.all_warnings and len(alone.examples) >= 15
    assert together.digest() == alone.digest()
    assert together.all_warnings == alone.all_warnings and together.rejected == alone.rejected
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")  # no unpacked files are left


def test_archives_and_preservation_too(workers: DistributedWorkers, tmp_path: Path) -> None:
    tars = sorted(write_shards(tmp_path / "shards").iterdir())
    options = {"preservation_data": str(write_shards(tmp_path / "class", 2, first_seed=100))}
    alone = prepared(tars, tmp_path / "alone", SINGLE_PROCESS, **options)
    together = prepared(tars, tmp_path / "together", workers, **options)
    assert together.digest() == alone.digest() and {example.concept for example in alone.examples} == {"TOK", None}
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_progress_counts_all_images(workers: DistributedWorkers, tmp_path: Path) -> None:
    seen: list[StageProgress] = []
    config = build_settings(DataConfig, {"resolution": 64, "captioner": "none"})
    drain(preparing([write_shards(tmp_path / "shards")], config, tmp_path / "out", workers=workers), seen.append)
    assert [each.done for each in seen if each.stage == "reading the images"] == list(range(1, 31))


@dataclass(frozen=True)
class Slow:
    """Returns the item and the id of its thread. Raises at the items `wrong`."""

    wrong: tuple[int, ...]
    unusual: bool = False

    def __call__(self, item: int) -> tuple[int, int]:
        if item in self.wrong:
            raise Unusual(item, "x") if self.unusual else DatasetError(f"item {item} is wrong")
        return item, threading.get_native_id()


class Unusual(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, item: int, more: str) -> None:
        super().__init__(f"unusual item {item}")


def test_all_processes_work_and_results_come_in_order(workers: DistributedWorkers) -> None:
    results = list(workers.map(Work.of(Slow(())), range(500), 1))
    assert [item for item, _ in results] == list(range(500))
    assert len({thread for _, thread in results}) >= COUNT
    assert list(workers.map(Work.of(Slow(())), [], 1)) == []
    assert [item for item, _ in workers.map(Work.of(Slow(())), range(5), 0)] == list(range(5))
    workers.release()


@pytest.mark.parametrize("wrong", [(0,), (1,), (301, 302), (302, 304), (499, 498)])
def test_the_error_is_the_one_that_a_single_process_meets_first(
    wrong: tuple[int, ...], workers: DistributedWorkers
) -> None:
    results = workers.map(Work.of(Slow(wrong)), range(500), 2)
    assert [item for item, _ in islice(results, min(wrong))] == list(range(min(wrong)))
    with pytest.raises(DatasetError, match=f"^item {min(wrong)} is wrong$"):
        next(results)


def test_an_error_that_cannot_travel_comes_as_its_text(workers: DistributedWorkers) -> None:
    with pytest.raises(RuntimeError, match="unusual item 301") as caught:
        list(workers.map(Work.of(Slow((301,), unusual=True)), range(500), 2))
    assert "in __call__" in str(caught.value)  # the traceback of the worker


def test_what_cannot_be_had_elsewhere_is_an_error(workers: DistributedWorkers) -> None:
    with pytest.raises(DatasetError, match="no model here"):
        list(workers.map(Work(Slow(()), _without_model), range(5), 2))


def _without_model() -> AbstractContextManager[Callable[[int], tuple[int, int]]]:
    raise DatasetError("no model here")


def test_what_another_machine_does_not_see_is_named(
    workers: DistributedWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, exists = write_shards(tmp_path / "shards"), Path.exists
    first = threading.get_ident()
    hidden = source / "shard-002.tar"
    monkeypatch.setattr(
        Path, "exists", lambda path: exists(path) and (path != hidden or threading.get_ident() == first)
    )
    with pytest.raises(DatasetError, match=r"shard-002\.tar: process 1, on .* cannot read it.*a shared disk"):
        prepared([source], tmp_path / "out", workers)


def test_a_damaged_shard_ends_it_with_the_same_words(workers: DistributedWorkers, tmp_path: Path) -> None:
    source = write_shards(tmp_path / "shards")
    for name in ("shard-001.tar", "shard-003.tar"):
        (source / name).write_bytes((source / name).read_bytes()[:1500])
    texts = []
    for each in (SINGLE_PROCESS, workers):
        with pytest.raises(DatasetError) as caught:
            prepared([source], tmp_path / type(each).__name__, each)
        texts.append(str(caught.value))
    assert texts[0] == texts[1] and "truncated" in texts[0]


@pytest.mark.slow
def test_captioners_share_the_pictures_in_the_batches_of_one(
    workers: DistributedWorkers, tiny_captioner: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "shards")
    options = {"captioner": str(tiny_captioner("blip")), "duplicates": "keep", "min_image_side": 8}
    load, lock = kinds.load_captioner, threading.Lock()

    def one_at_a_time(choice: CaptionerChoice, device: torch.device) -> Captioner:
        with lock:  # transformers can load in one thread of a process at a time
            return load(choice, device)

    monkeypatch.setattr(kinds, "load_captioner", one_at_a_time)
    datasets = []
    for name, each in (("alone", SINGLE_PROCESS), ("together", workers)):
        monkeypatch.setenv("CAPTION_CACHE", str(tmp_path / f"captions of {name}"))
        datasets.append(prepared([folder], tmp_path / name, each, **options))
    assert datasets[0].digest() == datasets[1].digest()
    assert (
        sum(example.caption_source == public_name(str(options["captioner"])) for example in datasets[0].examples) >= 10
    )
    kept = [
        sorted(path.name for path in (tmp_path / f"captions of {name}").iterdir()) for name in ("alone", "together")
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("wanted", "here", "count"), [(None, "1", 8), (None, "3", 2), (None, "16", 1), (5, "3", 5), (0, "3", 0)]
)
def test_processes_of_one_machine_share_its_cores(
    wanted: int | None, here: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert threads(wanted) == count
