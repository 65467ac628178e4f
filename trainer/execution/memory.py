"""Peak memory of the process."""

import re
import resource
import sys
from pathlib import Path

KIB, GIB = 2**10, 2**30
STATUS = Path("/proc/self/status")


def peak_memory_gib() -> float:
    """Return the peak memory in GiB: of the GPU where one is in use, otherwise of the process."""
    torch = sys.modules.get("torch")  # loaded in processes that train, not needed elsewhere
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / GIB, 3)
    return round(resident_peak() / GIB, 3)


def resident_peak() -> int:
    """Return the peak resident memory of this process in bytes.

    Reads Linux's status file where it exists: `getrusage` starts at the memory that the parent had when it forked.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * KIB
