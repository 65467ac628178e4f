"""Samples and evaluation, during and after training."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from settings.callers import Limited, Model, Open, Operator
from settings.record import Settings

EVALUATION_SETTINGS = (
    "evaluation_scales", "evaluation_checkpoints", "evaluation_samples", "evaluation_prompts", "unrelated_prompts",
    "evaluation_clip", "evaluation_dino", "evaluation_face_model",
)  # fmt: skip
"""Settings without effect if nothing is evaluated."""


class ValidationSection(Settings):
    """Samples, and the evaluation of checkpoints."""

    validation_prompt: Open[str | None] = Field(
        None,
        description="Prompt of the samples after training; by default the concept mode's template, of each concept",
    )
    validation_prompts: Limited[tuple[str, ...]] = Field(
        (),
        max_length=64,
        description="Several prompts instead of one: each has its own samples, and a row in the report and in trackers",
    )
    validation_prompts_file: Operator[Path | None] = Field(
        None, description="Text file with validation prompts, one per line; lines that begin with # are ignored"
    )
    num_validation_images: Limited[int] = Field(
        4,
        ge=0,
        le=64,
        description="Number of samples per prompt; with several concepts and no prompts: in total, at least one for "
        "each; 0: none",
    )
    num_inference_steps: Limited[int] = Field(30, ge=1, le=1000, description="Denoising steps of the samples")
    guidance_scale: Open[float] = Field(6.0, ge=0, le=50, description="Classifier-free guidance of the samples")
    sample_steps: Open[int | None] = Field(
        None, ge=1, description="Also generate samples every N steps, for the report's slider; off by default"
    )
    evaluate: Open[Literal["auto", "true", "false"]] = Field(
        "auto",
        description="Sample checkpoints at several scales, score them, and return the best; auto: if there are "
        "checkpoints",
    )
    evaluation_scales: Limited[tuple[float, ...]] = Field(
        (0.7, 0.85, 1.0), min_length=1, max_length=8, description="LoRA scales to compare"
    )
    evaluation_checkpoints: Limited[int] = Field(
        4, ge=1, le=50, description="Maximum number of checkpoints, evenly spaced, including the last"
    )
    evaluation_samples: Limited[int] = Field(2, ge=1, le=16, description="Number of images per evaluation prompt")
    evaluation_prompts: Limited[tuple[str, ...]] = Field(
        (),
        description="Evaluation prompts, with {trigger} for the trigger word; by default four for the concept mode "
        "and the base model",
    )
    unrelated_prompts: Limited[tuple[str, ...]] = Field(
        (), description="Prompts whose images should not change; by default six for the base model"
    )
    evaluation_clip: Model[str | None] = Field(
        None,
        description="CLIP model of the evaluation: a hub id or folder; by default openai/clip-vit-large-patch14, and "
        "the embedded evaluator for embedded base models",
    )
    evaluation_dino: Model[str | None] = Field(
        None,
        description="DINOv2 model of the evaluation: a hub id, a folder, or none; by default facebook/dinov2-base, "
        "and none for embedded base models",
    )

    evaluation_face_model: Operator[Path | None] = Field(
        None, description="SFace's ONNX file, to measure the likeness of faces; off by default"
    )

    @field_validator("validation_prompt", mode="before")
    @classmethod
    def _empty_prompt_is_none(cls, text: Any) -> Any:
        return None if text == "" else text

    @model_validator(mode="after")
    def _validation_rules(self) -> "ValidationSection":
        if any(not prompt.strip() for prompt in self.validation_prompts):
            raise ValueError("validation_prompts: one of them is empty")
        if self.validation_prompts and self.validation_prompt not in (None, self.validation_prompts[0]):
            raise ValueError("validation_prompts replaces validation_prompt; leave one of them out")
        if self.validation_prompts_file is not None and (self.validation_prompts or self.validation_prompt):
            raise ValueError(
                "validation_prompts_file replaces validation_prompt and validation_prompts; leave them out"
            )
        if self.sample_steps is not None and self.num_validation_images == 0:
            raise ValueError(
                "sample_steps has no effect with num_validation_images: 0; increase that, or leave sample_steps out"
            )
        if any(not 0 < scale <= 4 for scale in self.evaluation_scales):
            raise ValueError(f"evaluation_scales: {list(self.evaluation_scales)} must be above 0 and at most 4")
        return self
