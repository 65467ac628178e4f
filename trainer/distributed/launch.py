"""Number of processes and rank, from the environment that launchers set. Imports no torch."""

import atexit
import os
import subprocess
import sys

from settings.record import ConfigError

WORLD_SIZE, RANK, LOCAL_WORLD_SIZE = "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"
"""Environment variables that torchrun and accelerate launch set."""
PROCESSES_VARIABLE = "TRAINING_PROCESSES"
FSDP_VARIABLE = "ACCELERATE_USE_FSDP"
"""What accelerate launch sets for --use_fsdp."""
PRECISION_VARIABLE = "ACCELERATE_MIXED_PRECISION"
"""What accelerate launch sets for --mixed_precision."""
OTHER_SHARDING = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
FSDP_REFUSED = {
    "FSDP_OFFLOAD_PARAMS": ("true", "parameters are not offloaded; remove the option"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("true", "set gradient_checkpointing: always instead"),
    "FSDP_RESHARD_AFTER_FORWARD": ("false", "blocks are always resharded after their pass; remove the option"),
}
"""Options of accelerate launch that are not supported, as environment variable: (refused value, remedy)."""


def process_count() -> int:
    """Number of processes on all machines."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def processes_of_this_machine() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get(LOCAL_WORLD_SIZE, "1"))


def leave(status: int) -> int:
    """Return the exit status; of several processes, end this one with it, after the functions of `atexit`.

    A sharded model keeps gloo's threads until the interpreter is torn down. CPython 3.11 ends a thread that asks for
    the GIL at that time, and C++ aborts the process ("terminate called without an active exception"): this happened in
    4 of 49 runs with two processes. No cleanup is needed here: the files are written, and the launcher waits for the
    status.
    """
    if process_count() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def is_main_process() -> bool:
    """Whether this is the main process (rank 0)."""
    return int(os.environ.get(RANK, "0")) == 0


def fsdp_requested() -> bool:
    """Whether accelerate launch was started with --use_fsdp. Raises ConfigError for unsupported options."""
    for name in OTHER_SHARDING:
        if _is_true(name):
            raise ConfigError(
                f"{name.removeprefix('ACCELERATE_USE_')}: only FSDP2 is supported for sharding the base model: use "
                "accelerate launch --use_fsdp --fsdp_version 2, or --multi_gpu for a complete copy in each process "
                "(docs/performance.md)"
            )
    if not _is_true(FSDP_VARIABLE):
        return False
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(f"FSDP: version {version} wraps whole models; use accelerate launch … --fsdp_version 2")
    for name, (refused, remedy) in FSDP_REFUSED.items():
        if os.environ.get(name, "").lower() == refused:
            raise ConfigError(f"--{name.lower()} {refused}: {remedy}")
    return True


def launched_precision() -> str | None:
    """The precision set by `accelerate launch --mixed_precision`: bf16 or fp16; None for no setting, and for no, its
    default. Raises ConfigError for a precision that is not supported."""
    wanted = os.environ.get(PRECISION_VARIABLE, "no").lower()
    if wanted in ("bf16", "fp16"):
        return wanted
    if wanted != "no":
        raise ConfigError(
            f"accelerate launch --mixed_precision {wanted}: supported are bf16 (on GPUs from 2020 on), fp16 and fp32; "
            "use --mixed_precision bf16, fp16 or no"
        )
    return None


def require_several_processes(shard_base: bool) -> None:
    """Raises ConfigError if `shard_base` is set and there is only one process."""
    if shard_base and process_count() == 1:
        raise ConfigError(
            "shard_base: needs several processes; start them (accelerate launch --use_fsdp "
            "--fsdp_version 2 --num_processes N, or TRAINING_PROCESSES for a server), or remove the setting"
        )


def _is_true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


def processes_of_a_job() -> int:
    """Number of processes of a server's training: TRAINING_PROCESSES, else one per visible GPU.

    Raises ConfigError for anything but a positive number.
    """
    wanted = os.environ.get(PROCESSES_VARIABLE, "").strip()
    if not wanted:
        return max(1, visible_gpus())
    if not wanted.isdecimal() or int(wanted) == 0:
        raise ConfigError(f"{PROCESSES_VARIABLE}: {wanted!r} is not a number of processes; remove it to use every GPU")
    return int(wanted)


def visible_gpus() -> int:
    """Number of NVIDIA GPUs, from CUDA_VISIBLE_DEVICES or nvidia-smi."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([name for name in listed.split(",") if name.strip() not in ("", "-1")])
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len([line for line in answer.stdout.splitlines() if line.startswith("GPU ")])
