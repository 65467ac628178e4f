"""How fast data are prepared, and how memory and time grow with them: `python -m benchmarks.data`.

Each row is a preparation in a process of its own (captioner none, faces and masks off), so that peaks are its own.
Photographs are made from a seed and removed again.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.photographs import scaled_sizes, write_photographs
from benchmarks.record import RESULTS, markdown, write_record

IMAGES_IN_A_SHARD = 1000
MEGABYTE = 1024**2
DEFAULT_CASES = ("100x1024", "2000x1024", "100x64", "1000x64", "10000x64", "shards:10000x64")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", default=list(DEFAULT_CASES), help="COUNTxSIDE pixels; shards:… packs them into tars first"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--one", nargs=2, metavar=("SOURCE", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(Path(arguments.one[0]), int(arguments.one[1]))))
        return 0
    rows = [run_case(case) for case in arguments.cases]
    print(markdown(rows))
    print(write_record("data", rows, {"cases": arguments.cases}, arguments.results))
    return 0


def run_case(case: str) -> dict[str, Any]:
    """Make the data, prepare them in a process of its own, and give the row of the table."""
    kind, _, amount = case.rpartition(":")
    count, side = map(int, amount.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photographs"
        source.mkdir()
        read = write_photographs(source, scaled_sizes(count, side))
        if kind == "shards":
            source = pack_shards(source, Path(folder) / "shards")
        command = [sys.executable, "-m", "benchmarks.data", "--one", str(source), str(side)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"from": kind or "folder", "images": count, "side": side, "MB read": round(read / MEGABYTE)} | json.loads(
        answer.stdout.splitlines()[-1]
    )


def pack_shards(photographs: Path, folder: Path) -> Path:
    """The photographs as webdataset shards; they themselves are removed."""
    folder.mkdir()
    paths = sorted(photographs.iterdir())
    for start in range(0, len(paths), IMAGES_IN_A_SHARD):
        with tarfile.open(folder / f"{start // IMAGES_IN_A_SHARD:05d}.tar", "w") as shard:
            for path in paths[start : start + IMAGES_IN_A_SHARD]:
                shard.add(path, path.name)
                path.unlink()
    return folder


def measure(source: Path, side: int) -> dict[str, Any]:
    """One preparation in this process: times in seconds, the peak of its memory in MB, the cores it kept busy."""
    from preprocess.config import DataConfig
    from preprocess.gallery import write_gallery
    from preprocess.prepare import prepare
    from trainer.memory import resident_peak

    config = DataConfig(captioner="none", resolution=side)
    before = resident_peak() / MEGABYTE
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        dataset = prepare([source], config, Path(folder) / "dataset")
        seconds, busy = time.perf_counter() - start, time.process_time() - cpu
        peak = resident_peak() / MEGABYTE
        page = write_gallery(dataset).stat().st_size
        with_page = time.perf_counter() - start - seconds
    return {
        "seconds": round(seconds, 1),
        "images/s": round(len(dataset.examples) / seconds, 1),
        "cores busy": f"{busy / seconds:.2f} of {os.cpu_count()}",
        "peak MB": round(peak),
        "of it at start": round(before),
        "sizes": len({example.bucket for example in dataset.examples}),
        "gallery s": round(with_page, 1),
        "gallery MB": round(page / MEGABYTE, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
