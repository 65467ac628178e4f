"""How many processes train together: what launchers tell each of them, and what a server starts. Without torch."""

import os
import subprocess

from preprocess.settings import ConfigError

WORLD_SIZE, RANK, LOCAL_WORLD_SIZE = "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"
"""Environment variables of torchrun, which accelerate launch uses too."""
PROCESSES_VARIABLE = "TRAINING_PROCESSES"
SHARDING_VARIABLES = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""What accelerate launch sets for --use_fsdp and the like."""


def process_count() -> int:
    """How many processes train together, on all machines."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def processes_of_this_machine() -> int:
    """How many of them run here."""
    return int(os.environ.get(LOCAL_WORLD_SIZE, "1"))


def is_first_process() -> bool:
    """Whether this is the one that prepares, writes and decides."""
    return int(os.environ.get(RANK, "0")) == 0


def require_data_parallelism() -> None:
    """Raises ConfigError where accelerate was told to shard the model over processes."""
    for name in SHARDING_VARIABLES:
        if os.environ.get(name, "false").lower() in ("true", "1"):
            raise ConfigError(
                f"{name.removeprefix('ACCELERATE_USE_')}: models are not sharded here: each process has the whole "
                "base, and little of it is trained (docs/performance.md). Use accelerate launch --multi_gpu"
            )


def processes_of_a_job() -> int:
    """How many a server's training gets: as TRAINING_PROCESSES says, else one for each GPU that is visible.

    Raises ConfigError for anything but a positive number.
    """
    wanted = os.environ.get(PROCESSES_VARIABLE, "").strip()
    if not wanted:
        return max(1, visible_gpus())
    if not wanted.isdecimal() or int(wanted) == 0:
        raise ConfigError(f"{PROCESSES_VARIABLE}: {wanted!r} is no number of processes; leave it out to use every GPU")
    return int(wanted)


def visible_gpus() -> int:
    """NVIDIA's GPUs, as CUDA_VISIBLE_DEVICES lists them, or nvidia-smi."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([name for name in listed.split(",") if name.strip() not in ("", "-1")])
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len([line for line in answer.stdout.splitlines() if line.startswith("GPU ")])
