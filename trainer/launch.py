"""What the launchers (`accelerate launch`, `torchrun`) tell each process; asked before torch is loaded."""

import os

WORLD_SIZE, RANK = "WORLD_SIZE", "RANK"
"""Environment variables of torchrun, which accelerate launch uses too."""


def process_count() -> int:
    """How many processes train together, on all machines."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def is_first_process() -> bool:
    """Whether this is the one that prepares, writes and decides."""
    return int(os.environ.get(RANK, "0")) == 0
