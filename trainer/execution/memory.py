"""Peak memory of the process."""

import re
import resource
import sys
from pathlib import Path

KIB, GIB = 2**10, 2**30
STATUS = Path("/proc/self/status")


def peak_memory_gib() -> float:
    """The most up to now, in GiB: of the GPU where one is in use, else of the process."""
    torch = sys.modules.get("torch")  # a process that reports steps has loaded it; others need not
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / GIB, 3)
    return round(resident_peak() / GIB, 3)


def resident_peak() -> int:
    """The most that this process itself has had in main memory, in bytes.

    From Linux's status file where there is one: `getrusage` begins with what the parent had when it started this one.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * KIB
