"""The GPU utilisation of this machine, from nvidia-smi."""

import shutil
import subprocess
from dataclasses import dataclass

COMMAND = "nvidia-smi"
QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
SECONDS = 5.0
MIB_OF_A_GIB = 1024


@dataclass(frozen=True)
class GpuUse:
    """`busy`: current utilisation in percent; None if the card does not report it. Memory of all processes, in GiB."""

    busy: int | None
    used_gib: float
    total_gib: float


def gpu_use() -> list[GpuUse]:
    """Return the use of each GPU; [] without nvidia-smi, or if it fails."""
    command = shutil.which(COMMAND)
    if command is None:
        return []
    try:
        answer = subprocess.run([command, *QUERY], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [_of_line(line) for line in answer.stdout.splitlines() if line.count(",") == 2]


def _of_line(line: str) -> GpuUse:
    """Parse a line such as "87, 11264, 24576". Values that the card does not report are "[N/A]"."""
    busy, used, total = (int(part) if part.strip().isdigit() else None for part in line.split(","))
    return GpuUse(busy, (used or 0) / MIB_OF_A_GIB, (total or 0) / MIB_OF_A_GIB)
