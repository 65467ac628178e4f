"""Speed of encoding shards, memory of a process, and cost of a kill: `python -m benchmarks.preparation.streaming`. The
command `encode` runs with the embedded base, as started by a user; its processes are measured from outside. All of them
are killed inside a shard when a tenth of the shards is finished, and the command is started again. Photographs are
generated from a seed and removed again. On a machine with other processes, CPU time is more reliable than seconds; both
are shown.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.preparation.data import pack_shards
from benchmarks.preparation.photographs import scaled_sizes, write_photographs
from benchmarks.preparation.stages import stages_of_a_shard
from benchmarks.preparation.watching import Watch, watched
from benchmarks.record import RESULTS, markdown, write_record
from settings.command_line.parser import CommandParser

BASE_MODEL = "mini-sdxl"
OPTIONS = ("--base_model", BASE_MODEL, "--class_word", "photograph", "--captioner", "none")
KILLED_AFTER = 10
"""All processes are killed when a tenth of the shards is finished; the memory is measured over the other nine
tenths."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engines, print the tables, write the record."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--in_a_shard", type=int, default=1000, help="images of each shard")
    parser.add_argument("--side", type=int, default=64, help="approximate side in pixels, and the resolution")
    parser.add_argument("--engines", nargs="+", default=["local"], help="local, ray, or ray:2 for two workers at most")
    parser.add_argument("--stage_sides", type=int, nargs="+", default=[64, 512], help="sides whose stages are timed")
    parser.add_argument("--stage_images", type=int, default=50, help="images of a shard whose stages are timed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        stages = [stages_at(side, arguments.stage_images, Path(scratch)) for side in arguments.stage_sides]
        print(markdown(stages), flush=True)
        shards = written(arguments.images, arguments.side, arguments.in_a_shard, Path(scratch) / "shards")
        rows = []
        for engine in arguments.engines:
            rows.append(row(engine, shards, arguments.side, Path(scratch)))
            print(markdown(rows[-1:]), flush=True)
    names = ("images", "in_a_shard", "side", "engines", "stage_sides", "stage_images")
    settings = {name: getattr(arguments, name) for name in names}
    print(write_record("streaming", [*rows, *stages], settings, arguments.results))
    return 0


def written(images: int, side: int, in_a_shard: int, folder: Path) -> Path:
    """Write photographs of about `side`² pixels in shards of `in_a_shard` to a new folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        write_photographs(Path(scratch), scaled_sizes(images, side))
        return pack_shards(Path(scratch), folder, in_a_shard)


def stages_at(side: int, images: int, scratch: Path) -> dict[str, Any]:
    """The stages of one shard of photographs that are a quarter larger than the resolution."""
    shards = written(images, side * 5 // 4, images, scratch / f"stages-{side}")
    return stages_of_a_shard(min(shards.iterdir()), side, BASE_MODEL)


def row(engine: str, shards: Path, side: int, scratch: Path) -> dict[str, Any]:
    """Encode all shards with one engine, which is killed once inside a shard and started again."""
    name, _, workers = engine.partition(":")
    output = scratch / engine.replace(":", "-")
    command = [sys.executable, "-m", "service", "encode", str(shards), "--output", str(output), *OPTIONS]
    command += ["--resolution", str(side), "--engine", name, *(["--workers", workers] if workers else [])]
    count = len(list(shards.iterdir()))
    killed = watched(command, kill_after=max(1, count // KILLED_AFTER))
    kept = len(list(output.glob("[0-9]*.json")))
    rest = watched(command)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("[0-9]*.json"))]
    images = sum(len(record["examples"]) for record in records)
    digest = hashlib.sha256("".join(record["sha256"] for record in records).encode()).hexdigest()[:8]
    times = {"engine": engine, "images": images, "shards": len(records), "features": digest}
    return times | _figures(killed, rest, rest.lines[kept:], images / len(records)) | {"kept after the kill": kept}


def _figures(killed: Watch, rest: Watch, lines: Sequence[float], in_a_shard: float) -> dict[str, Any]:
    """`lines`: seconds at which shards were finished after the restart. Rates are those of their second half, when all
    workers are loaded."""
    middle, end = lines[len(lines) // 2], lines[-1]
    images = in_a_shard * (len(lines) - 1 - len(lines) // 2)
    cpu = rest.cpu(middle, end)
    return {
        "seconds": round(killed.seconds + rest.seconds, 1),
        "images/s": round(images / max(end - middle, 1e-9), 1),
        "CPU ms an image": round(1000 * cpu / max(images, 1), 2),
        "of it servers": round(1000 * rest.of_servers(middle, end) / max(images, 1), 2),
        "cores busy": f"{cpu / max(end - middle, 1e-9):.2f} of {os.cpu_count()}",
        "load": round(rest.load(), 1),
        "peak MB, first half": round(rest.peak(0, middle)),
        "peak MB, second half": round(rest.peak(middle, rest.seconds)),
        "restart to next shard s": round(lines[0], 1),
        "of it CPU s": round(rest.cpu(0, lines[0]), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
