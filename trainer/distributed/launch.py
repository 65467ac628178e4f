"""How many processes train together: what launchers tell each of them, and what a server starts. Without torch."""

import os
import subprocess

from settings.record import ConfigError

WORLD_SIZE, RANK, LOCAL_WORLD_SIZE = "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"
"""Environment variables of torchrun, which accelerate launch uses too."""
PROCESSES_VARIABLE = "TRAINING_PROCESSES"
FSDP_VARIABLE = "ACCELERATE_USE_FSDP"
"""What accelerate launch sets for --use_fsdp."""
OTHER_SHARDING = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
FSDP_REFUSED = {
    "FSDP_OFFLOAD_PARAMS": ("true", "parameters are not offloaded; leave it out"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("true", "set gradient_checkpointing: always instead"),
    "FSDP_RESHARD_AFTER_FORWARD": ("false", "blocks are always given up after their pass; leave it out"),
}
"""Its options that ask for something else than is done here, by the variables that it makes of them, and remedies."""


def process_count() -> int:
    """How many processes train together, on all machines."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def processes_of_this_machine() -> int:
    """How many of them run here."""
    return int(os.environ.get(LOCAL_WORLD_SIZE, "1"))


def is_first_process() -> bool:
    """Whether this is the one that writes and decides."""
    return int(os.environ.get(RANK, "0")) == 0


def told_to_shard() -> bool:
    """Whether accelerate launch was told to shard the model by FSDP. Raises ConfigError for what cannot be granted."""
    for name in OTHER_SHARDING:
        if _is_true(name):
            raise ConfigError(
                f"{name.removeprefix('ACCELERATE_USE_')}: the base is sharded by FSDP2 alone: use accelerate launch "
                "--use_fsdp --fsdp_version 2, or --multi_gpu to have all of it in each process (docs/performance.md)"
            )
    if not _is_true(FSDP_VARIABLE):
        return False
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(f"FSDP: version {version} wraps whole models; use accelerate launch … --fsdp_version 2")
    for name, (refused, remedy) in FSDP_REFUSED.items():
        if os.environ.get(name, "").lower() == refused:
            raise ConfigError(f"--{name.lower()} {refused}: {remedy}")
    return True


def require_several(shard_base: bool) -> None:
    """Raises ConfigError where one process alone shall share its base out."""
    if shard_base and process_count() == 1:
        raise ConfigError(
            "shard_base: a single process has nobody to share with; start several (accelerate launch --use_fsdp "
            "--fsdp_version 2 --num_processes N, or TRAINING_PROCESSES for a server), or leave it out"
        )


def _is_true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


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
