"""How fast shards become features, and what memory a process has: `python -m benchmarks.preparation.streaming`.

The command `encode` runs on the embedded base, as a user starts it; its processes are watched from outside. Photographs
are made from a seed and removed again. Times of the stages are those of one shard in this process.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.preparation.data import MEGABYTE, pack_shards
from benchmarks.preparation.photographs import scaled_sizes, write_photographs
from benchmarks.record import RESULTS, markdown, write_record
from settings.command_line.parser import CommandParser

OPTIONS = ("--base_model", "mini-sdxl", "--class_word", "photograph", "--captioner", "none")
WATCHED_EVERY = 0.5
"""Seconds."""
ENCODER_TITLES = ("ray::MapWorker", "encode")
"""What is in the command lines of processes that encode; Ray's own servers are not counted."""


@dataclass
class Watch:
    """One run of the command. `lines`: seconds after the start of each shard's line. `memory`: of each moment the
    seconds, and the megabytes of the process that has most."""

    lines: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0

    def peak(self, start: float, end: float) -> float:
        """Largest memory between two moments; 0 where none was measured."""
        return max((memory for moment, memory in self.memory if start <= moment <= end), default=0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engines, print the tables, write the record."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--in_a_shard", type=int, default=1000, help="images of each shard")
    parser.add_argument("--side", type=int, default=64, help="pixels of a side, about, and the resolution")
    parser.add_argument("--engines", nargs="+", default=["local"], help="local, ray, or ray:2 for two workers at most")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        photographs = Path(scratch) / "photographs"
        photographs.mkdir()
        write_photographs(photographs, scaled_sizes(arguments.images, arguments.side))
        shards = pack_shards(photographs, Path(scratch) / "shards", arguments.in_a_shard)
        stages = stages_of_a_shard(min(shards.iterdir()), arguments.side)
        rows = [row(engine, shards, arguments.side, Path(scratch)) for engine in arguments.engines]
    print(markdown([stages]))
    print(markdown(rows))
    settings = {name: getattr(arguments, name) for name in ("images", "in_a_shard", "side", "engines")}
    print(write_record("streaming", [*rows, stages], settings, arguments.results))
    return 0


def row(engine: str, shards: Path, side: int, scratch: Path) -> dict[str, Any]:
    """Encode all shards by one engine, then start the command again where only the last one is missing."""
    name, _, workers = engine.partition(":")
    output = scratch / engine.replace(":", "-")
    command = [sys.executable, "-m", "service", "encode", str(shards), "--output", str(output), *OPTIONS]
    command += ["--resolution", str(side), "--engine", name, *(["--workers", workers] if workers else [])]
    whole = watched(command)
    records = sorted(output.glob("[0-9]*.json"))
    examples = sum(len(json.loads(path.read_text(encoding="utf-8"))["examples"]) for path in records)
    records[-1].unlink()
    again = watched(command)
    middle = (whole.lines[0] + whole.lines[-1]) / 2
    rate = (len(whole.lines) - 1) / max(whole.lines[-1] - whole.lines[0], 1e-9)
    return {
        "engine": engine,
        "images": examples,
        "shards": len(records),
        "seconds": round(whole.seconds, 1),
        "first shard s": round(whole.lines[0], 1),
        "images/s after it": round(rate * examples / len(records), 1),
        "peak MB, first half": round(whole.peak(0, middle)),
        "peak MB, second half": round(whole.peak(middle, whole.seconds)),
        "restart for one shard s": round(again.seconds, 1),
    }


def watched(command: Sequence[str]) -> Watch:
    """Run the command to its end. Raises CalledProcessError."""
    watch, start = Watch(), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        over = threading.Event()
        watcher = threading.Thread(target=_watch_memory, args=(process.pid, watch, start, over))
        watcher.start()
        assert process.stdout is not None
        watch.lines += [time.perf_counter() - start for line in process.stdout if " files not used" in line]
        status = process.wait()
        over.set()
        watcher.join()
    watch.seconds = time.perf_counter() - start
    if status:
        raise subprocess.CalledProcessError(status, command)
    return watch


def _watch_memory(pid: int, watch: Watch, start: float, over: threading.Event) -> None:
    while not over.wait(WATCHED_EVERY):
        try:
            processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        most = max((_megabytes(each) for each in processes), default=0.0)
        watch.memory.append((time.perf_counter() - start, most))


def _megabytes(process: psutil.Process) -> float:
    """Resident memory of a process that encodes; 0 for others, and for one that has just ended."""
    try:
        encodes = any(title in part for part in process.cmdline() for title in ENCODER_TITLES)
        return process.memory_info().rss / MEGABYTE if encodes else 0.0
    except psutil.Error:
        return 0.0


def stages_of_a_shard(shard: Path, side: int) -> dict[str, Any]:
    """Images a second of each stage: reading, choosing and cutting, and encoding to latents."""
    import torch

    from families.registry import load_base_model
    from preprocess.prepare import BaseRequirements, prepare
    from settings.preparation import DataConfig
    from settings.record import build_settings
    from trainer.data.latent_cache import encode_view

    family = load_base_model("mini-sdxl", torch.float32)
    options = {"captioner": "none", "resolution": side, "class_word": "photograph", "max_extra_crop": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        dataset = prepare(
            [shard], build_settings(DataConfig, options), Path(folder) / "data", BaseRequirements(family.size_multiple)
        )
        prepared = time.perf_counter()
        for example in dataset.examples:
            encode_view(dataset.folder, example.views[0], family)
        encoded = time.perf_counter()
    count = len(dataset.examples)
    return {
        "images of the shard": count,
        "prepared images/s": round(count / (prepared - start), 1),
        "encoded images/s": round(count / (encoded - prepared), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
