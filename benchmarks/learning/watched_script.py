"""Runs a training script and writes down when each backward pass began, and the most memory that it took.

python benchmarks/learning/watched_script.py RESULT.json SCRIPT [ARGUMENT ...]

The script must train with accelerate. The memory is, of a GPU, what torch's allocator had given away, and on a CPU that
of the process.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator


def main() -> None:
    """Run the script as if it were started directly."""
    result, script = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from trainer.execution.memory import resident_peak

    begun: list[float] = []
    backward = Accelerator.backward

    def watched(self: Accelerator, *arguments: Any, **options: Any) -> None:
        begun.append(time.time())
        backward(self, *arguments, **options)

    Accelerator.backward = watched
    sys.argv = sys.argv[2:]
    sys.path[0] = str(script.resolve().parent)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_peak()
        result.write_text(json.dumps({"backward_begun": begun, "peak_bytes": peak}), encoding="utf-8")


if __name__ == "__main__":
    main()
