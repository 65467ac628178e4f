"""How long is trained where the user left it open: from the images."""

import math
from collections.abc import Sequence

from settings.training import TrainingConfig
from trainer.data.batches import batches_an_epoch
from trainer.data.latent_cache import CachedExample

USUAL_BATCH = 4
VIEWS_OF_AN_IMAGE = 100
FEWEST_STEPS, MOST_STEPS = 500, 3000


def plan_duration(config: TrainingConfig, examples: Sequence[CachedExample], processes: int = 1) -> TrainingConfig:
    """Fill in steps, batch and warm-up. `examples`: what is trained, by so many `processes`.

    A batch of 4 in each process, or its part of all images where there are fewer. Steps by epochs where given;
    else each image is seen about a hundred times, in 500 to 3000 steps.
    """
    repeats = sum(example.repeats for example in examples)
    batch = config.train_batch_size or min(USUAL_BATCH, math.ceil(repeats / processes))
    effective = batch * processes * config.gradient_accumulation_steps
    if config.max_train_epochs is not None:
        micro_batches = config.max_train_epochs * batches_an_epoch(examples, batch * processes)
        steps = math.ceil(micro_batches / config.gradient_accumulation_steps)
    else:
        by_images = round(VIEWS_OF_AN_IMAGE * repeats / effective)
        steps = config.max_train_steps or min(MOST_STEPS, max(FEWEST_STEPS, by_images))
    found = {"train_batch_size": batch, "max_train_steps": steps, "max_train_epochs": None}
    planned = TrainingConfig.model_construct(set(config.model_fields_set), **(dict(config) | found))
    return planned.model_copy(update={"lr_warmup_steps": planned.warmup_steps})


def describe(config: TrainingConfig, images: int, processes: int = 1) -> str:
    """The plan in words. `config`: planned."""
    assert config.max_train_steps is not None and config.train_batch_size is not None
    effective = config.train_batch_size * processes * config.gradient_accumulation_steps
    views = config.max_train_steps * effective / max(1, images)
    limit = "" if config.max_train_minutes is None else f", for at most {config.max_train_minutes:g} minutes"
    shared = "" if processes == 1 else f" in {processes} processes"
    return (
        f"{config.max_train_steps} steps of {effective} images{shared}{limit}: "
        f"each of {images} images about {views:.0f} times"
    )
