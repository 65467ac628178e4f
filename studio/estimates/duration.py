"""Estimates the duration of a training from earlier ones on this machine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from preprocess.dataset import PreparedDataset
from preprocess.errors import DatasetError
from settings.record import ConfigError
from settings.sections.adapter import AdapterSection
from settings.sections.collapse import CollapseSection
from settings.sections.objective import ObjectiveSection
from settings.sections.speed import SpeedSection
from settings.sections.tokens import TokenSection
from settings.training import TrainingConfig, build_config
from studio.jobs.pace import Pace
from studio.jobs.record import JobRecord

DECISIVE = (
    "base_model", "resolution", "adapter", "train_batch_size", "gradient_accumulation_steps", "mixed_precision",
    *SpeedSection.model_fields,
)  # fmt: skip
"""Runs that differ in one of these settings are not used for the estimate."""
ALSO_COUNTS = (
    *AdapterSection.model_fields, *ObjectiveSection.model_fields, *CollapseSection.model_fields,
    *TokenSection.model_fields, "optimizer",
)  # fmt: skip
"""Runs that differ in these settings may be used; the estimate lists the differences."""


@dataclass(frozen=True)
class Plan:
    """`steps` of a training with those `settings`, including the batch size."""

    steps: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """The pace of an earlier run, its name, and the settings in which it differs."""

    pace: Pace
    run: str
    differing: tuple[str, ...]


@dataclass(frozen=True)
class Duration:
    """`seconds` of the whole training; None if no similar run was measured."""

    plan: Plan
    measure: Measure | None

    @property
    def seconds(self) -> float | None:
        if self.measure is None:
            return None
        pace, minutes = self.measure.pace, self.plan.settings["max_train_minutes"]
        steps = self.plan.steps * pace.seconds_per_step
        return min(steps, 60 * minutes if minutes else steps) + (pace.other_seconds or 0.0)


def plan_of(config: TrainingConfig, dataset: PreparedDataset) -> Plan:
    """Plan steps and batch size as train.py does, for one process."""
    from trainer.data.latent_cache import CachedExample  # deferred: imports torch
    from trainer.duration import plan_duration

    counted = [
        CachedExample((), each.caption, each.concept, each.bucket, each.repeats, each.weight, picture=each.picture)
        for each in dataset.examples
    ]
    planned = plan_duration(config.duration, counted)
    assert planned.max_train_steps is not None
    return Plan(planned.max_train_steps, dict(config) | {"train_batch_size": planned.train_batch_size})


def duration_of(plan: Plan, jobs: Sequence[JobRecord]) -> Duration:
    """Return the duration by the measured run that differs least, the newest among those. `jobs`: the oldest first."""
    measures = [found for job in jobs if (found := _measure(plan, job)) is not None]
    if not measures:
        return Duration(plan, None)
    return Duration(plan, min(reversed(measures), key=lambda found: len(found.differing)))


def _measure(plan: Plan, job: JobRecord) -> Measure | None:
    if job.pace is None:
        return None
    try:
        made = _plan_of_job(job.dataset, json.dumps(job.settings, sort_keys=True)).settings
    except (ConfigError, DatasetError):  # written by an earlier version, or edited by hand
        return None
    if any(made[name] != plan.settings[name] for name in DECISIVE):
        return None
    differing = tuple(name for name in dict.fromkeys(ALSO_COUNTS) if made[name] != plan.settings[name])
    return Measure(job.pace, job.name, differing)


@lru_cache(maxsize=256)
def _plan_of_job(dataset: Path, settings: str) -> Plan:
    """`dataset`: the job's own, which is never changed. `settings`: in JSON."""
    return plan_of(build_config(json.loads(settings)), PreparedDataset.read(dataset))
