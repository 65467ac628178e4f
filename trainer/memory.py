"""How much memory the process has needed."""

import resource
import sys

KIB, GIB = 2**10, 2**30


def peak_memory_gib() -> float:
    """The most up to now, in GiB: of the GPU where one is in use, else of the process."""
    torch = sys.modules.get("torch")  # whoever reports steps has loaded it; nobody else needs to
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / GIB, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / GIB, 3)
