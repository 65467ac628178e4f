"""Time saved by a server's warm processes: a training is started, forked from the libraries, or forked from the kept
base.

python -m benchmarks.speed.warm_server [--runs 3] [--steps 20] [--base_model mini-sdxl]

The same job in alternation, without samples or evaluation, as started by the server: as a new process, with
WARM_WORKER=1 and with KEEP_BASE=1 (docs/deployment.md). The preparation of the warm processes before the first training
is not included. `start` is the time until the first backward pass, `end` that after the last one.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.learning.contenders import EXAMPLE, same_job
from benchmarks.learning.watched_script import watch
from benchmarks.record import Row, markdown, write_record
from benchmarks.speed.job import PROJECT, WATCHER, Phases, Watched
from families.loading.sources import EMBEDDED_BASE
from service.job_secrets import Secrets, child_environment
from service.processes.base_keeper import BaseKeeper, BaseOfTraining
from service.processes.child_process import ChildProcess
from service.processes.warm_worker import KEEP_BASE, prepare_where_wanted, start_forked
from settings.command_line.parser import CommandParser


def main() -> None:
    """Measure, print the table, write benchmarks/results/warm_server.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="number of runs, of which the table has medians")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--base_model", default=EMBEDDED_BASE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(given.base_model, given.steps, given.runs, Path(scratch))
    print(markdown(rows))
    print(write_record("warm_server", rows, vars(given)))


def measure(base: str, steps: int, runs: int, scratch: Path) -> list[Row]:
    """A row for each way to start a training."""
    os.environ[KEEP_BASE] = "1"
    prepare_where_wanted()
    keeper = BaseKeeper(BaseOfTraining(base))
    watched = scratch / "watched.json"
    ways: dict[str, Callable[[list[str]], ChildProcess]] = {
        "started": lambda command: ChildProcess.start([sys.executable, str(WATCHER), str(watched), *command]),
        "forked from the libraries": lambda command: start_forked(partial(watch, watched, command), _environment()),
        "forked from the kept base": lambda command: keeper.start(partial(watch, watched, command), _environment()),
    }
    found: dict[str, list[Watched]] = {name: [] for name in ways}
    for number in range(runs + 1):
        for name, start in ways.items():
            command = [str(PROJECT / "train.py"), *_job(base, steps), "--output", str(scratch / f"{name} {number}")]
            run = _measured(partial(start, command), watched)
            found[name] += [run] if number > 0 else []  # the first run of each waits for the warm processes
    keeper.stop()
    return rows_of_ways({name: [run.phases | run.parts for run in runs] for name, runs in found.items()})


def rows_of_ways(found: Mapping[str, Sequence[Phases]]) -> list[Row]:
    """A row for each way: medians of its runs."""

    def row(name: str, runs: Sequence[Phases]) -> Row:
        whole = ("start", "steps", "end")
        columns = {"whole job": whole, "start": ("start",), "load": ("load",), "end": ("end",)}
        return {"training": name} | {
            f"{column}, {unit}": round(median(sum(run[part][number] for part in parts) for run in runs), 2)
            for column, parts in columns.items()
            for number, unit in enumerate(("s", "CPU s"))
        }

    return [row(name, runs) for name, runs in found.items()]


def _job(base: str, steps: int) -> list[str]:
    options = ["--base_model", base, "--num_validation_images", 0, "--max_train_steps", steps]
    return [str(part) for part in (EXAMPLE, *same_job(), *options)]


def _environment() -> dict[str, str]:
    return child_environment(Secrets())


def _measured(start: Callable[[], ChildProcess], watched: Path) -> Watched:
    """The measurement of one run. The CPU time of a forked process starts at the fork."""
    begun = time.time()
    job = start()
    lines = list(job.lines())
    if job.exit_status() != 0:
        raise RuntimeError("\n".join(lines[-20:]))
    return Watched.read(watched, (begun, 0.0))


if __name__ == "__main__":
    main()
