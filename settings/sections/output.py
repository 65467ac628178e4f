"""Checkpoints, precision of the files, whole models, trackers."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Limited, Open, Operator
from settings.record import Settings

CHECKPOINTING = ("checkpointing_steps", "checkpointing_epochs", "checkpointing_minutes")
"""Settings for when checkpoints are written; at most one of them may be set."""


class OutputSection(Settings):
    """The artifact and its checkpoints."""

    save_precision: Open[Literal["fp16", "bf16", "fp32"] | None] = Field(
        None, description="Precision of weights.safetensors; by default fp16, and fp32 with adapter full"
    )
    save_model: Operator[Literal["none", "diffusers", "single_file"]] = Field(
        "none",
        description="With adapter full, also write the whole model: the folder model/ in diffusers' layout, including "
        "the tokens, or model.safetensors, in the layout of the base model's own file",
    )
    save_model_precision: Operator[Literal["base", "fp16", "bf16", "fp32"]] = Field(
        "base",
        description="Precision of the trained parts of save_model; base: that of each weight in the base model's files",
    )
    trackers: Operator[tuple[Literal["tensorboard", "wandb"], ...]] = Field(
        (), description="Trackers to log to; each needs its package. metrics.jsonl is always written"
    )
    checkpointing_steps: Open[int | None] = Field(
        None,
        ge=1,
        description="Write checkpoints/step_NNNNNN every N steps: a complete artifact, and the state for --resume",
    )
    checkpointing_epochs: Open[int | None] = Field(
        None, ge=1, description="Instead of checkpointing_steps: write a checkpoint every N passes over all images"
    )
    checkpointing_minutes: Open[float | None] = Field(
        None,
        gt=0,
        le=100_000,
        description="Instead of checkpointing_steps: write a checkpoint every N minutes of training steps",
    )
    keep_checkpoints: Limited[int | None] = Field(
        None, ge=1, description="Number of checkpoints to keep, in addition to the best one; by default all"
    )

    keep_state: Open[bool | None] = Field(
        None,
        description="Keep the state for --resume at the end of the run, to continue with more steps; by default if it "
        "takes less than 1 GB",
    )

    @property
    def writes_checkpoints(self) -> bool:
        """Whether checkpoints are written before the end of the run."""
        return any(getattr(self, name) is not None for name in CHECKPOINTING)

    @model_validator(mode="after")
    def _output_rules(self) -> "OutputSection":
        given = [name for name in CHECKPOINTING if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both set when checkpoints are written; leave one of them out")
        if self.save_model == "none" and self.save_model_precision != "base":
            raise ValueError("save_model_precision has no effect without save_model; set it, or leave it out")
        if self.keep_checkpoints is not None and not self.writes_checkpoints:
            raise ValueError("keep_checkpoints has no effect without checkpointing_steps; set it, or leave it out")
        return self
