"""Number of steps, epochs or minutes, and batch size."""

from pydantic import Field, model_validator

from settings.callers import Limited, Open
from settings.record import Settings

LOOKS = 12
"""How many times samples are scored in a run of full length with stop_when_settled."""

MOST_CONCEPTS_SCORED = 3
"""Largest number of concepts whose samples are scored, during and after training: the first ones."""


class DurationSection(Settings):
    """Steps and batches. Defaults are computed from the number of images."""

    max_train_steps: Limited[int | None] = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Optimizer steps; by default each image is trained about 100 times",
    )
    stop_when_settled: Open[bool] = Field(
        False,
        description="Evaluate samples at intervals, and end the run when the likeness has settled or prompts are "
        "followed less, within max_train_steps or three times the default",
    )
    max_train_epochs: Limited[int | None] = Field(
        None, ge=1, le=100_000, description="Instead of steps: passes over all images"
    )
    max_train_minutes: Limited[float | None] = Field(
        None,
        gt=0,
        le=100_000,
        description="Time limit of training: the steps, and the samples, scores and checkpoints between them; "
        "schedules are shortened accordingly",
    )
    train_batch_size: Limited[int | None] = Field(
        None, ge=1, le=1024, description="Images per micro-batch; by default 4, or all if there are fewer"
    )
    gradient_accumulation_steps: Limited[int] = Field(1, ge=1, le=1024, description="Micro-batches per optimizer step")

    @model_validator(mode="after")
    def _duration_rules(self) -> "DurationSection":
        if self.max_train_steps is not None and self.max_train_epochs is not None:
            raise ValueError(
                "max_train_steps and max_train_epochs both set the length of the run; leave one of them out "
                "(max_train_minutes may limit either)"
            )
        return self
