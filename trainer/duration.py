"""Computes the number of steps from the number of images where the user set none."""

import math
from collections.abc import Sequence

from settings.sections.duration import DurationSection
from trainer.data.batches import batches_an_epoch
from trainer.data.latent_cache import CachedExample, by_picture

USUAL_BATCH = 4
VIEWS_OF_AN_IMAGE = 100
FEWEST_STEPS, MOST_STEPS = 500, 3000


def plan_duration(duration: DurationSection, examples: Sequence[CachedExample], processes: int = 1) -> DurationSection:
    """Return `duration` with the number of steps and the batch size filled in.

    `examples`: the training images. `processes`: the number of processes. The batch size is 4 per process, or fewer
    where there are not enough images. Steps are computed from the epochs where those are set; otherwise each image is
    seen about 100 times, within 500 to 3000 steps.
    """
    repeats = sum(example.repeats for example in examples)
    seen = sum(examples[indices[0]].repeats for indices in by_picture(examples))
    batch = duration.train_batch_size or min(USUAL_BATCH, math.ceil(repeats / processes))
    effective = batch * processes * duration.gradient_accumulation_steps
    if duration.max_train_epochs is not None:
        micro_batches = duration.max_train_epochs * batches_an_epoch(examples, batch * processes)
        steps = math.ceil(micro_batches / duration.gradient_accumulation_steps)
    else:
        by_images = round(VIEWS_OF_AN_IMAGE * seen / effective)
        steps = duration.max_train_steps or min(MOST_STEPS, max(FEWEST_STEPS, by_images))
    found = {"train_batch_size": batch, "max_train_steps": steps, "max_train_epochs": None}
    return DurationSection.model_construct(set(duration.model_fields_set), **(dict(duration) | found))


def describe(duration: DurationSection, images: int, processes: int = 1) -> str:
    """Describe the planned `duration` in words."""
    assert duration.max_train_steps is not None and duration.train_batch_size is not None
    effective = duration.train_batch_size * processes * duration.gradient_accumulation_steps
    views = duration.max_train_steps * effective / max(1, images)
    limit = "" if duration.max_train_minutes is None else f", for at most {duration.max_train_minutes:g} minutes"
    shared = "" if processes == 1 else f" in {processes} processes"
    return (
        f"{duration.max_train_steps} steps of {effective} images{shared}{limit}: "
        f"each of {images} images about {views:.0f} times"
    )
