"""The state of a training run, for resuming it bit for bit.

Learning rate schedules are functions of the step, so only the step is stored of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings.record import ConfigError
from trainer.checkpoints.same_run import (
    require_same_base,
    require_same_images,
    require_same_processes,
    require_same_sharding,
    require_same_training_adapter,
    require_steps_left,
)
from trainer.losses.term import learning_terms

if TYPE_CHECKING:
    from trainer.training import Training
    from trainer.training_adapter import TrainingAdapter

FORMAT = 2
"""Format 1 stored the optimizer state of every parameter separately."""
SHARDS_AT = "shards_at"
"""The folder of the rows of sharded weights, beside the state."""


def capture(training: Training) -> dict[str, Any]:
    """Capture the state between two steps: step, trainables with optimizers and averages, generators, data position."""
    trainer = training.trainer
    return {
        "format": FORMAT,
        "step": trainer.step,
        "total_steps": trainer.max_train_steps,
        "seconds": training.seconds,
        "processes": trainer.generators.share.count,
        "parts": trainer.accumulation.parts,
        "config": training.config.model_dump(mode="json"),
        "base_fingerprint": training.base_fingerprint,
        "training_adapter": _digest_of(training.training_adapter),
        "dataset": str(training.dataset.folder.resolve()),
        "dataset_digest": training.dataset.digest(),
        "trainables": {trainable.name: trainable.state_dict() for trainable in trainer.trainables},
        "statistics": {} if training.controlnet is None else training.controlnet.statistics,
        "generators": trainer.generators.state_dict(),
        "batches": training.batches.state_dict(),
        "loss_scaling": None if trainer.loss_scaling is None else trainer.loss_scaling.state_dict(),
        "losses": {term.name: term.state_dict() for term in learning_terms(trainer.losses)},
        "best": training.best.state_dict(),
        "settling": None if training.settling is None else training.settling.state_dict(),
        "scorer": None if training.scorer is None else training.scorer.state_dict(),
    }


def restore(training: Training, state: dict[str, Any]) -> None:
    """Load a captured state into a training that was built from the same configuration.

    Raises ConfigError if base model, images or trained parameters have changed, or the run would end before it.
    """
    trainer = training.trainer
    require_same_base(state, training.base_fingerprint)
    require_same_training_adapter(state, _digest_of(training.training_adapter))
    require_same_images(state, training.dataset.digest())
    require_same_processes(state, trainer.generators.share.count)
    require_steps_left(state, training.config.max_train_steps)
    if set(state["trainables"]) != {trainable.name for trainable in trainer.trainables}:
        raise ConfigError(
            f"resume: the checkpoint trains {', '.join(state['trainables'])}, but this configuration does not. Use the "
            "run's own settings"
        )
    trainer.step, training.seconds = state["step"], state["seconds"]
    trainer.accumulation.parts = state["parts"]
    if _has_same_end(state, training):
        trainer.end_at(state["total_steps"])
    for trainable in trainer.trainables:
        saved, shards = state["trainables"][trainable.name], state.get(SHARDS_AT)
        require_same_sharding(saved, trainable.sharded)
        trainable.load_state_dict(saved, trainer.step, None if shards is None else Path(shards))
    if training.controlnet is not None:
        training.controlnet.load_statistics(state.get("statistics", {}))
    if trainer.loss_scaling is not None and state.get("loss_scaling") is not None:
        trainer.loss_scaling.load_state_dict(state["loss_scaling"])
    trainer.generators.load_state_dict(state["generators"])
    training.batches.load_state_dict(state["batches"])
    for term in learning_terms(trainer.losses):
        term.load_state_dict(state["losses"][term.name])
    training.best.load_state_dict(state["best"])
    if training.settling is not None and state.get("settling") is not None:
        training.settling.load_state_dict(state["settling"])
    if training.scorer is not None:
        training.scorer.load_state_dict(state["scorer"])


def _has_same_end(state: dict[str, Any], training: Training) -> bool:
    """Whether the run ends where it would have ended at its checkpoint: a time limit, which may be different now, or
    its samples may have shortened it."""
    before, config = state["config"], training.config
    settled = training.settling is not None and (state.get("settling") or {}).get("reason") is not None
    same_limit = before["max_train_minutes"] == config.max_train_minutes
    return bool(before["max_train_steps"] == config.max_train_steps and (same_limit or settled))


def _digest_of(adapter: TrainingAdapter | None) -> str | None:
    return None if adapter is None else adapter.digest
