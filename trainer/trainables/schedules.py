"""Learning rate schedules of transformers, each limited to its part of the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import get_scheduler

from settings.sections.optimization import SchedulerName

Multiplier = Callable[[int], float]
"""Factor of the peak learning rate at an optimizer step, counted from 0."""
DECAY = 0.2
"""Share of a run, at its end, in which the rate of warmup_stable_decay decreases, by 1 - sqrt (Hägele et al. 2024,
"Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", section 3)."""


@dataclass(frozen=True)
class ScheduleSettings:
    """A schedule. `first` and `last`: shares of the run between which the learning rate is above 0; training phases are
    implemented only with these. `cycles`, `power`: of cosine_with_restarts and polynomial."""

    name: SchedulerName
    warmup_steps: int
    first: float = 0.0
    last: float = 1.0
    cycles: int = 1
    power: float = 1.0


def multiplier(settings: ScheduleSettings, learning_rate: float, total_steps: int) -> Multiplier:
    """Return the schedule of a run of `total_steps`: it warms up at the start of its part, and ends at the end of
    it."""
    first, last = (round(share * total_steps) for share in (settings.first, settings.last))
    curve = _curve(settings, learning_rate, last - first)

    def at(step: int) -> float:
        return curve(step - first) if first <= step < last else 0.0

    return at


def _curve(settings: ScheduleSettings, learning_rate: float, steps: int) -> Multiplier:
    own: dict[SchedulerName, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": settings.cycles},
        "polynomial": {"power": settings.power, "lr_end": 0.0},
        "warmup_stable_decay": {"num_decay_steps": round(DECAY * steps), "decay_type": "1-sqrt"},
    }
    # a required argument without effect
    probe = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    schedule = get_scheduler(
        "constant_with_warmup" if settings.name == "constant" else settings.name,
        probe,
        num_warmup_steps=min(settings.warmup_steps, steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=own.get(settings.name),
    )
    curve: Multiplier = schedule.lr_lambdas[0]
    return curve
