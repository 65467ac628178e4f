"""How long is trained, on how much at a time."""

from pydantic import Field

from preprocess.settings import Settings


class DurationSection(Settings):
    """Steps and batches."""

    max_train_steps: int = Field(1000, ge=1, le=1_000_000, description="Optimizer steps")
    train_batch_size: int = Field(4, ge=1, le=1024, description="Images a micro-batch")
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024, description="Micro-batches an optimizer step")
