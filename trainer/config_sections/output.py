"""What is written, and when."""

from typing import Literal

from pydantic import Field

from preprocess.settings import Settings


class OutputSection(Settings):
    """The artifact and its checkpoints."""

    save_precision: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Of the LoRA in weights.safetensors")
    checkpointing_steps: int | None = Field(
        None,
        ge=1,
        description="Write checkpoints/step_NNNNNN.safetensors every so many steps; each is a whole artifact",
    )
