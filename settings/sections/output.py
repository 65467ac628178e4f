"""Checkpoints, precision of the file, trackers."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Limited, Open, Operator
from settings.record import Settings


class OutputSection(Settings):
    """The artifact and its checkpoints."""

    save_precision: Open[Literal["fp16", "bf16", "fp32"]] = Field(
        "fp16", description="Precision of the LoRA in weights.safetensors"
    )
    trackers: Operator[tuple[Literal["tensorboard", "wandb"], ...]] = Field(
        (), description="Also log to these; each needs its package. metrics.jsonl is written in any case"
    )
    checkpointing_steps: Open[int | None] = Field(
        None,
        ge=1,
        description="Write checkpoints/step_NNNNNN every N steps: a complete artifact, and the state for --resume",
    )
    keep_checkpoints: Limited[int | None] = Field(
        None, ge=1, description="Number of checkpoints to keep, besides the best one; by default all"
    )

    keep_state: Open[bool | None] = Field(
        None,
        description="Keep what --resume needs at the end of the run, to go on with more steps; by default where it "
        "takes less than 1 GB",
    )

    @model_validator(mode="after")
    def _output_rules(self) -> "OutputSection":
        if self.keep_checkpoints is not None and self.checkpointing_steps is None:
            raise ValueError("keep_checkpoints has no effect without checkpointing_steps; set it, or leave it out")
        return self
