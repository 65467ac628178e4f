"""Speed of data preparation, and growth of memory and time with the data: `python -m benchmarks.preparation.data`. Each
row is a preparation in separate processes (captioner none, faces and masks off), so that their peaks are independent.
Photographs are generated from a seed and removed again.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.preparation.photographs import scaled_sizes, write_photographs
from benchmarks.record import RESULTS, markdown, write_record
from settings.command_line.parser import CommandParser

if TYPE_CHECKING:  # measured code is only imported in the measuring processes
    from preprocess.workers.workers import Workers

IMAGES_IN_A_SHARD = 1000
MEGABYTE = 1024**2
DEFAULT_CASES = ("100x1024", "2000x1024", "100x64", "1000x64", "10000x64", "shards:10000x64")
SHARD_CASES = (
    "shards/50:200x1024@1x1", "shards/50:200x1024@1x2", "shards/50:200x1024@2x1",
    "shards/1000:5000x64@1x1", "shards/1000:5000x64@1x2", "shards/1000:5000x64@2x1",
    "shards/20:5000x64@1x2", "shards/20:20000x64@1x2",
)  # fmt: skip
"""The same number of images in more shards, and more images: time increases, memory must not."""
_CASE = re.compile(r"(?:(?P<kind>shards)(?:/(?P<in_a_shard>\d+))?:)?(?P<count>\d+)x(?P<side>\d+)"
                   r"(?:@(?P<processes>\d+)x(?P<threads>\d+))?")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row. `in_a_shard`: images per shard, None for a folder. `threads`: of each process, None: one per core."""

    count: int
    side: int
    in_a_shard: int | None = None
    processes: int = 1
    threads: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Case":
        """Parse a case. Raises ValueError with the expected form."""
        match = _CASE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text}: is not COUNTxSIDE, shards:COUNTxSIDE or shards/EACH:COUNTxSIDE, with or without "
                             "@PROCESSESxTHREADS")  # fmt: skip
        in_a_shard = int(match["in_a_shard"] or IMAGES_IN_A_SHARD) if match["kind"] else None
        threads = int(match["threads"]) if match["threads"] else None
        return cls(int(match["count"]), int(match["side"]), in_a_shard, int(match["processes"] or 1), threads)

    def command(self, source: Path) -> list[str]:
        """Return the command of the preparing processes. The main one prints its figures as JSON in the last line."""
        own = ["-m", "benchmarks.preparation.data", "--one", str(source), str(self.side), str(self.threads or 0)]
        if self.processes == 1:
            return [sys.executable, *own]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
        return [sys.executable, *torchrun, *own]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, print the table, write the record."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        default=list(DEFAULT_CASES),
        help="COUNTxSIDE pixels; shards:… packs them into tars first, shards/50:… 50 into each; …@2x1: two processes "
        "of one thread each",
    )
    parser.add_argument("--shards", action="store_true", help="the cases that compare processes, threads and shards")
    parser.add_argument("--name", help="name of the record; default: data, and shards with --shards")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--one", nargs=3, metavar=("SOURCE", "SIDE", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        source, side, threads = arguments.one
        take_part(Path(source), int(side), int(threads) or None)
        return 0
    cases = list(SHARD_CASES) if arguments.shards else arguments.cases
    rows = [run_case(Case.parse(case)) for case in cases]
    print(markdown(rows))
    name = arguments.name or ("shards" if arguments.shards else "data")
    print(write_record(name, rows, {"cases": cases}, arguments.results))
    return 0


def run_case(case: Case) -> dict[str, Any]:
    """Generate the data, prepare them in separate processes, and return the row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photographs"
        source.mkdir()
        read = write_photographs(source, scaled_sizes(case.count, case.side))
        if case.in_a_shard is not None:
            source = pack_shards(source, Path(folder) / "shards", case.in_a_shard)
        shards = 0 if case.in_a_shard is None else len(list(source.iterdir()))
        answer = subprocess.run(case.command(source), capture_output=True, text=True, check=True)
    return {
        "from": f"{shards} shards" if shards else "folder",
        "images": case.count,
        "side": case.side,
        "processes": case.processes,
        "threads of each": case.threads or os.cpu_count(),
        "MB read": round(read / MEGABYTE),
    } | json.loads(answer.stdout.splitlines()[-1])


def pack_shards(photographs: Path, folder: Path, in_a_shard: int = IMAGES_IN_A_SHARD) -> Path:
    """Write the photographs as webdataset shards, and remove the original files."""
    folder.mkdir()
    paths = sorted(photographs.iterdir())
    for start in range(0, len(paths), in_a_shard):
        with tarfile.open(folder / f"{start // in_a_shard:05d}.tar", "w") as shard:
            for path in paths[start : start + in_a_shard]:
                shard.add(path, path.name)
                path.unlink()
    return folder


Spent = tuple[float, float]
"""Resource usage of one process: CPU seconds, and its peak memory in MB."""


def take_part(source: Path, side: int, threads: int | None) -> None:
    """Run one process's part. The main process prints the result of `measure`."""
    from preprocess.workers.workers import SINGLE_PROCESS
    from trainer.distributed.launch import process_count
    from trainer.distributed.preparation_workers import run_worker, workers_of
    from trainer.distributed.processes import Processes, start

    if process_count() == 1:
        print(json.dumps(measure(source, side, threads, SINGLE_PROCESS, lambda own: [own])))
        return
    processes = Processes(start())
    if processes.is_main:
        print(json.dumps(measure(source, side, threads, workers_of(processes), processes.gather)))
    else:
        cpu = time.process_time()
        run_worker(processes)
        processes.gather(spent_since(cpu))
    processes.accelerator.end_training()


def spent_since(cpu: float) -> Spent:
    """Return the usage since `cpu`, an earlier `time.process_time`."""
    from trainer.execution.memory import resident_peak

    return time.process_time() - cpu, resident_peak() / MEGABYTE


def measure(
    source: Path, side: int, threads: int | None, workers: "Workers", gather: Callable[[Spent], list[Spent]]
) -> dict[str, Any]:
    """One preparation with this process as the main one: times in seconds, the peak memory in MB (of the largest
    process), the number of busy cores. `gather`: the usage of all processes."""
    from preprocess.gallery.page import write_gallery
    from preprocess.prepare import preparing
    from preprocess.workers.relay import drain
    from settings.preparation import DataConfig

    config = DataConfig(captioner="none", resolution=side, num_workers=threads)
    _, before = spent_since(0.0)
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        dataset = drain(preparing([source], config, Path(folder) / "dataset", workers=workers), lambda _: None)
        seconds = time.perf_counter() - start
        workers.release()
        spent = gather(spent_since(cpu))
        start = time.perf_counter()
        page = write_gallery(dataset).stat().st_size
        with_page = time.perf_counter() - start
        dataset.digest()
        with_digest = time.perf_counter() - start - with_page
    busy, peak = sum(cores for cores, _ in spent), max(memory for _, memory in spent)
    return {
        "seconds": round(seconds, 1),
        "images/s": round(len(dataset.examples) / seconds, 1),
        "cores busy": f"{busy / seconds:.2f} of {os.cpu_count()}",
        "peak MB": round(peak),
        "of it at start": round(before),
        "sizes": len({example.bucket for example in dataset.examples}),
        "gallery s": round(with_page, 1),
        "gallery MB": round(page / MEGABYTE, 1),
        "digest s": round(with_digest, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
