"""What is looked at while and after it trains."""

from typing import Any

from pydantic import Field, field_validator

from preprocess.settings import Settings


class ValidationSection(Settings):
    """Samples."""

    validation_prompt: str | None = Field(
        None, description="Prompt of the samples after training; by default the concept mode's template"
    )
    num_validation_images: int = Field(4, ge=0, le=64, description="How many samples; 0: none")
    num_inference_steps: int = Field(30, ge=1, le=1000, description="Steps of the samples")
    guidance_scale: float = Field(6.0, ge=0, le=50, description="Classifier-free guidance of the samples")

    @field_validator("validation_prompt", mode="before")
    @classmethod
    def _empty_prompt_is_none(cls, text: Any) -> Any:
        return None if text == "" else text
