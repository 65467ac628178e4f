"""Checks that a resumed training matches its checkpoint, before any file is written."""

from collections.abc import Mapping
from typing import Any

from settings.record import ConfigError

OUTLINE = "outline"
"""Marks the state of a trainable whose tensors are stored in shards."""
ANEW = "Train into another --output"


def require_same_base(state: Mapping[str, Any], fingerprint: str) -> None:
    """Raises ConfigError for another base than that of the state."""
    if state["base_fingerprint"] != fingerprint:
        raise ConfigError(f"resume: the base model changed since the checkpoint was written. {ANEW}")


def require_same_training_adapter(state: Mapping[str, Any], digest: str | None) -> None:
    """Raises ConfigError for another training adapter than that of the state. `digest`: of its file."""
    if state.get("training_adapter") != digest:
        raise ConfigError(f"resume: the file of training_adapter changed since the checkpoint was written. {ANEW}")


def require_same_images(state: Mapping[str, Any], digest: str) -> None:
    """Raises ConfigError for other prepared images than those of the state, also if they were edited."""
    if state["dataset_digest"] != digest:
        raise ConfigError(f"resume: the prepared images changed since the checkpoint was written. {ANEW}")


def require_same_processes(state: Mapping[str, Any], count: int) -> None:
    """Raises ConfigError for another number of processes."""
    if (before := state.get("processes", 1)) != count:
        raise ConfigError(
            f"resume: the checkpoint was trained by {before} processes, whose batches differ from those of {count}; "
            f"start {before}, or train into another --output"
        )


def require_same_sharding(trainable: Mapping[str, Any], sharded: bool) -> None:
    """Raises ConfigError if a trainable's weights were sharded and are not now, or vice versa."""
    if (OUTLINE in trainable) == sharded:
        return
    before, remedy = ("each process had all weights", "leave it out") if sharded else ("they were sharded", "set it")
    raise ConfigError(f"resume: shard_base must not change in a full fine-tuning: {before}; {remedy}")


def require_steps_left(state: Mapping[str, Any], max_train_steps: int | None) -> None:
    """Raises ConfigError if the run would end before the step of its checkpoint."""
    if max_train_steps is not None and max_train_steps < state["step"]:
        raise ConfigError(
            f"resume: max_train_steps is now {max_train_steps}, but the checkpoint already has {state['step']} steps. "
            "Give more steps or leave it out; for a shorter run, use weights.safetensors of an earlier checkpoint"
        )
