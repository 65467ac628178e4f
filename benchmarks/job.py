"""Where the time of a whole job goes: the demo by phase, from the start of the process to its end.

python -m benchmarks.job [--runs 3] [--steps 300]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import markdown, write_record

PROJECT = Path(__file__).resolve().parents[1]
EXAMPLE = PROJECT / "assets" / "examples" / "robot.zip"
DEMO = PROJECT / "configs" / "demo.yaml"


def main() -> None:
    """Measure, print the table, write benchmarks/results/job.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="the table has their medians")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runs = [phases_of(Path(scratch) / str(run), arguments.steps) for run in range(arguments.runs)]
    rows = medians(runs)
    print(markdown(rows))
    print(write_record("job", rows, {"runs": arguments.runs, "steps": arguments.steps, "config": DEMO.name}))


def phases_of(output: Path, steps: int) -> dict[str, float]:
    """Seconds by phase of one job. `process`: what the job's own clock does not see: imports, start and end."""
    command: list[object] = [sys.executable, "train.py", EXAMPLE, "--config", DEMO, "--output", output]
    started = time.monotonic()
    subprocess.run(
        [*map(str, command), "--max_train_steps", str(steps)], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.monotonic() - started
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    phases: dict[str, float] = report["phases"]
    return {"process": seconds - sum(phases.values()), **phases, "all": seconds}


def medians(runs: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """A row a phase: median seconds and share of the whole."""
    middle = {phase: statistics.median(run[phase] for run in runs) for phase in runs[0]}
    return [
        {"phase": phase, "seconds": round(seconds, 2), "share": f"{seconds / middle['all']:.0%}"}
        for phase, seconds in middle.items()
    ]


if __name__ == "__main__":
    main()
