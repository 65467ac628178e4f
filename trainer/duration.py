"""Computes the number of steps from the number of images if it is not given."""

import math
from collections.abc import Sequence
from typing import Any

from families.family import ModelFamily, restoring
from settings.record import ConfigError
from settings.sections.duration import DurationSection
from settings.sections.optimization import SCHEDULE_FREE
from settings.training import TrainingConfig
from trainer.checkpoints.schedule import ROUNDING
from trainer.data.batches import batches_an_epoch
from trainer.data.latent_cache import CachedExample, by_picture

USUAL_BATCH = 4
VIEWS_OF_AN_IMAGE = 100
FEWEST_STEPS, MOST_STEPS = 500, 3000
OF_ANY_LENGTH = (None, "constant", "warmup_stable_decay")
"""Schedules that do not depend on the length of the run until its end is decided."""
AT_MOST = 3
"""A run that ends when samples have settled has at most this many times the steps of a run of fixed length."""


def plan_duration(duration: DurationSection, examples: Sequence[CachedExample], processes: int = 1) -> DurationSection:
    """Return `duration` with the number of steps and the batch size filled in.

    `examples`: the training images. `processes`: the number of processes. The batch size is 4 per process, or fewer if
    there are not enough images. Steps are computed from the epochs if those are set; otherwise each image is seen about
    100 times, within 500 to 3000 steps. With `stop_when_settled` this is the maximum: three times as many, within the
    same limit.
    """
    repeats = sum(example.repeats for example in examples)
    seen = sum(examples[indices[0]].repeats for indices in by_picture(examples))
    batch = duration.train_batch_size or min(USUAL_BATCH, math.ceil(repeats / processes))
    effective = batch * processes * duration.gradient_accumulation_steps
    if duration.max_train_epochs is not None:
        micro_batches = duration.max_train_epochs * batches_an_epoch(examples, batch * processes)
        steps = math.ceil(micro_batches / duration.gradient_accumulation_steps)
    else:
        by_images = min(MOST_STEPS, max(FEWEST_STEPS, round(VIEWS_OF_AN_IMAGE * seen / effective)))
        most = min(MOST_STEPS, AT_MOST * by_images) if duration.stop_when_settled else by_images
        steps = duration.max_train_steps or most
    found = {"train_batch_size": batch, "max_train_steps": steps, "max_train_epochs": None}
    return DurationSection.model_construct(set(duration.model_fields_set), **(dict(duration) | found))


def with_duration(config: TrainingConfig, examples: Sequence[CachedExample], processes: int = 1) -> TrainingConfig:
    """Return the configuration with the number of steps and the batch size, as `plan_duration` finds them. Raises
    ConfigError for intervals and starts beyond the last step."""
    planned = config.planned(plan_duration(config.duration, examples, processes))
    epochs, steps = planned.checkpointing_epochs, planned.max_train_steps
    assert planned.train_batch_size is not None and steps is not None
    if epochs is not None:
        micro_batches = epochs * batches_an_epoch(examples, planned.train_batch_size * processes)
        until_first = micro_batches / planned.gradient_accumulation_steps
        if until_first > steps * (1 + ROUNDING):
            raise ConfigError(
                f"checkpointing_epochs ({epochs}) are {math.ceil(until_first)} steps and exceed max_train_steps "
                f"({steps}), so no checkpoint would be written; set a smaller value, or checkpointing_steps"
            )
    return planned


def settling_defaults(config: TrainingConfig, family: ModelFamily) -> dict[str, Any]:
    """Return the schedule of a run with `stop_when_settled`. Raises ConfigError if another setting needs to know the
    end, or samples cannot be scored."""
    if not config.stop_when_settled:
        return {}
    problem = _against_settling(config, family)
    if problem is not None:
        raise ConfigError(f"stop_when_settled has no effect: {problem}; leave one of them out")
    own = None if config.optimizer in SCHEDULE_FREE else "warmup_stable_decay"
    return {"lr_scheduler": config.lr_scheduler or own}


def _against_settling(config: TrainingConfig, family: ModelFamily) -> str | None:
    """Return the reason why the run cannot end by its samples; None if it can."""
    reasons = {
        "samples of a ControlNet are not scored": config.is_controlnet,
        f"{config.base_model} reconstructs images and cannot generate from a prompt": restoring(family) is not None,
        "with evaluate: false there is no encoder to score samples": config.evaluate == "false",
        f"lr_scheduler: {config.lr_scheduler} needs a fixed length": config.lr_scheduler not in OF_ANY_LENGTH,
        "tokens_first and tokens_until are shares of a fixed length": config.tokens_first > 0
        or config.tokens_until < 1,
        "samples of a sharded full fine-tuning are not scored": config.shard_base and config.trains_base,
        "max_train_epochs is a fixed length": config.max_train_epochs is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def describe(duration: DurationSection, images: int, processes: int = 1) -> str:
    """Describe the planned `duration` in words."""
    assert duration.max_train_steps is not None and duration.train_batch_size is not None
    effective = duration.train_batch_size * processes * duration.gradient_accumulation_steps
    views = duration.max_train_steps * effective / max(1, images)
    limit = "" if duration.max_train_minutes is None else f", for at most {duration.max_train_minutes:g} minutes"
    shared = "" if processes == 1 else f" in {processes} processes"
    most = "until samples have settled, at most " if duration.stop_when_settled else ""
    return f"{most}{duration.max_train_steps} steps of {effective} images{shared}{limit}: " + (
        f"each of {images} images about {views:.0f} times" if views >= 1 else f"{views:.0%} of {images} images, once"
    )
