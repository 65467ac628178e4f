"""Runs a training script and records the start of each backward pass, and the peak memory.

python benchmarks/learning/watched_script.py RESULT.json SCRIPT [ARGUMENT ...]

The script must train with accelerate. The memory is that allocated by torch on a GPU, and that of the process on a CPU.
For this project's train.py, the start of each stage is also recorded.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
BETWEEN = "exit"
"""Name for the time after a stage: until the next stage, and after the last one until the end of the process."""

Moment = tuple[float, float]
"""Wall time in seconds since the epoch, and CPU time of the process in seconds."""


def main() -> None:
    """Run the script of the command line."""
    sys.path[0] = str(PROJECT)
    watch(Path(sys.argv[1]), sys.argv[2:])


def watch(result: Path, command: Sequence[str]) -> int:
    """Run a script with its arguments as if it were started directly, and write the record. Returns 0; the exit of a
    script, such as ours, is not intercepted."""
    script = Path(command[0]).resolve()
    from service.quick_imports import quick_imports

    is_ours = script == PROJECT / "train.py"
    stages: list[tuple[str, Moment]] = []
    with quick_imports() if is_ours else nullcontext():
        import torch
        from accelerate import Accelerator

        if is_ours:
            _watch_stages(stages)
    from trainer.execution.memory import resident_peak

    begun: list[Moment] = []
    backward = Accelerator.backward

    def watched(self: Accelerator, *arguments: Any, **options: Any) -> None:
        begun.append(now())
        backward(self, *arguments, **options)

    Accelerator.backward = watched
    sys.argv = list(command)
    sys.path[0] = str(script.parent)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_peak()
        record = {"backward_begun": begun, "stages": stages, "end": now(), "peak_bytes": peak}
        result.write_text(json.dumps(record), encoding="utf-8")
    return 0


def now() -> Moment:
    """The times of this process and of its finished child processes."""
    return time.time(), sum(os.times()[:4])


def _watch_stages(stages: list[tuple[str, Moment]]) -> None:
    """Append name and time of the start of each stage, and BETWEEN at its end."""
    from job import run, stage

    perform: Callable[..., Iterator[Any]] = stage.perform

    def watched(job: stage.Job, each: stage.Stage) -> Iterator[Any]:
        stages.append((each.name, now()))
        yield from perform(job, each)
        stages.append((BETWEEN, now()))

    vars(run)["perform"] = watched


if __name__ == "__main__":
    main()
