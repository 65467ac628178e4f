"""Chooses the number of steps from the number of images where the user gave none."""

import math
from collections.abc import Sequence

from settings.sections.duration import DurationSection
from trainer.data.batches import batches_an_epoch
from trainer.data.latent_cache import CachedExample

USUAL_BATCH = 4
VIEWS_OF_AN_IMAGE = 100
FEWEST_STEPS, MOST_STEPS = 500, 3000


def plan_duration(duration: DurationSection, examples: Sequence[CachedExample], processes: int = 1) -> DurationSection:
    """Fill in steps and batch. `examples`: what is trained, by so many `processes`.

    A batch of 4 in each process, or its part of all images where there are fewer. Steps by epochs where given;
    else each image is seen about a hundred times, in 500 to 3000 steps.
    """
    repeats = sum(example.repeats for example in examples)
    batch = duration.train_batch_size or min(USUAL_BATCH, math.ceil(repeats / processes))
    effective = batch * processes * duration.gradient_accumulation_steps
    if duration.max_train_epochs is not None:
        micro_batches = duration.max_train_epochs * batches_an_epoch(examples, batch * processes)
        steps = math.ceil(micro_batches / duration.gradient_accumulation_steps)
    else:
        by_images = round(VIEWS_OF_AN_IMAGE * repeats / effective)
        steps = duration.max_train_steps or min(MOST_STEPS, max(FEWEST_STEPS, by_images))
    found = {"train_batch_size": batch, "max_train_steps": steps, "max_train_epochs": None}
    return DurationSection.model_construct(set(duration.model_fields_set), **(dict(duration) | found))


def describe(duration: DurationSection, images: int, processes: int = 1) -> str:
    """The plan in words. `duration`: planned."""
    assert duration.max_train_steps is not None and duration.train_batch_size is not None
    effective = duration.train_batch_size * processes * duration.gradient_accumulation_steps
    views = duration.max_train_steps * effective / max(1, images)
    limit = "" if duration.max_train_minutes is None else f", for at most {duration.max_train_minutes:g} minutes"
    shared = "" if processes == 1 else f" in {processes} processes"
    return (
        f"{duration.max_train_steps} steps of {effective} images{shared}{limit}: "
        f"each of {images} images about {views:.0f} times"
    )
