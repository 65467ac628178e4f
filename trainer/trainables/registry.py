"""The list of trainables. A new one is a file in this folder and a line here (docs/adding-an-adapter.md)."""

from dataclasses import replace
from functools import partial

from settings.sections.optimization import OptimizationSection
from trainer.distributed.processes import Processes
from trainer.distributed.sharded_base import Base
from trainer.distributed.shards import Shard
from trainer.optimizers.extras import require_available
from trainer.trainables.averages import Averaging
from trainer.trainables.controlnet import CONTROLNET
from trainer.trainables.denoiser import DENOISER_WEIGHTS
from trainer.trainables.kind import Placement, TrainableKind, Updates, UpdateSettings
from trainer.trainables.part import Part, Parts
from trainer.trainables.perfusion import PERFUSION
from trainer.trainables.schedules import ScheduleSettings
from trainer.trainables.sharded import ShardedTrainable
from trainer.trainables.text_encoders import TEXT_ENCODERS
from trainer.trainables.tokens import TOKENS
from trainer.trainables.trainable import Trainable

KINDS: tuple[TrainableKind, ...] = (DENOISER_WEIGHTS, PERFUSION, TEXT_ENCODERS, TOKENS, CONTROLNET)
"""Trainables in the order of logs and checkpoints. They are placed in reverse, so adapters find trainable tokens."""


def place_parts(placement: Placement) -> Parts:
    """Add the configured parts to the base model. Raises ConfigError if the base model lacks the layers for one."""
    placed = {kind.name: kind.place(placement) for kind in reversed(KINDS)}
    return Parts({kind.name: part for kind in KINDS if (part := placed[kind.name]) is not None})


def build_trainables(parts: Parts, settings: UpdateSettings, base: Base, processes: Processes) -> list[Trainable]:
    """Build an optimizer and a schedule for every part that is trained."""
    trainables = []
    for kind in KINDS:
        if kind.name in parts and (updates := kind.updates(parts[kind.name], settings)) is not None:
            trainables.append(_trainable(kind.name, parts[kind.name], updates, settings, base, processes))
    return trainables


def require_optimizers(settings: OptimizationSection) -> None:
    """Raises ConfigError, before anything is loaded, for an optimizer that cannot run on this machine."""
    require_available(settings.optimizer)
    if settings.resolved_token_learning_rate > 0:
        require_available(settings.token_optimizer, "token_optimizer")


def _trainable(
    name: str, part: Part, updates: Updates, settings: UpdateSettings, base: Base, processes: Processes
) -> Trainable:
    own, optimizer = settings.optimization, updates.optimizer
    assert own.lr_warmup_steps is not None  # filled in by the plan of the duration
    schedule = ScheduleSettings(
        own.scheduler_of(optimizer.name),
        own.lr_warmup_steps,
        first=updates.first,
        last=updates.last,
        cycles=own.lr_num_cycles,
        power=own.lr_power,
    )
    sharded = any(isinstance(parameter, Shard) for parameter in part.parameters)
    new = partial(ShardedTrainable, base=base, processes=processes) if sharded else Trainable
    trainable = new(
        name,
        part.parameters,
        optimizer=replace(optimizer, flat=False) if sharded else optimizer,
        schedule=schedule,
        max_grad_norm=updates.max_grad_norm,
        total_steps=settings.total_steps,
        averaging=Averaging(own.ema_decay, own.ema_start, own.ema_interval),
        undecayed=part.undecayed,
        ups=updates.ups,
    )
    if updates.prepare is not None:
        updates.prepare(trainable.optimizer)
    return trainable
