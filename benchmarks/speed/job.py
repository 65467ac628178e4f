"""Where the time of a whole job goes: the demo by phase, from the start of the process to its end.

python -m benchmarks.speed.job [--runs 3] [--steps 280]

Warm, the operating system has all files of Python, its packages and the base in memory; cold, it has to read them, as
on a machine that has just started.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import markdown, write_record
from settings.command_line.parser import CommandParser

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "assets" / "examples" / "robot.zip"
DEMO = PROJECT / "configs" / "demo.yaml"


def main() -> None:
    """Measure, print the table, write benchmarks/results/job.json."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="the table has their medians")
    parser.add_argument("--steps", type=int, default=280)
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.runs):
            for state, of_state in runs.items():
                if state == "cold":
                    forget_files(
                        [Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["purelib"]), PROJECT]
                    )
                of_state.append(phases_of(Path(scratch) / f"{state} {number}", arguments.steps))
    rows = medians(runs)
    print(markdown(rows))
    print(write_record("job", rows, {"runs": arguments.runs, "steps": arguments.steps, "config": DEMO.name}))


def phases_of(output: Path, steps: int) -> dict[str, float]:
    """Return seconds by phase of one job. `process`: the time outside of the job's own clock: imports, start and
    end."""
    command: list[object] = [sys.executable, "train.py", EXAMPLE, "--config", DEMO, "--output", output]
    started = time.monotonic()
    subprocess.run(
        [*map(str, command), "--max_train_steps", str(steps)], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.monotonic() - started
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    phases: dict[str, float] = report["phases"]
    return {"process": seconds - sum(phases.values()), **phases, "all": seconds}


def forget_files(folders: Sequence[Path]) -> None:
    """Drop the files in these folders from the operating system's cache, except for unwritten data."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def medians(runs: Mapping[str, Sequence[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row a phase: median seconds, and share of the whole where files are in memory. `runs`: cold and warm ones."""
    middle = {
        state: {phase: statistics.median(run[phase] for run in of_state) for phase in of_state[0]}
        for state, of_state in runs.items()
    }
    return [
        {
            "phase": phase,
            "cold, s": round(middle["cold"][phase], 2),
            "warm, s": round(seconds, 2),
            "share": f"{seconds / middle['warm']['all']:.0%}",
        }
        for phase, seconds in middle["warm"].items()
    ]


if __name__ == "__main__":
    main()
