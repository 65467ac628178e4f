"""What is put on the base and trained."""

from typing import Literal

from pydantic import Field

from preprocess.settings import Settings


class AdapterSection(Settings):
    """The adapter on the denoiser."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of the LoRA")
    alpha: float | None = Field(None, gt=0, description="The LoRA is scaled by alpha / rank; by default alpha = rank")
    lora_targets: Literal["attention", "attention+feed-forward", "attention+feed-forward+convolutions"] = Field(
        "attention", description="Which layers of the UNet get a LoRA"
    )
