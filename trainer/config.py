"""The single truth about every setting: Cog inputs, YAML files and the command line are checked against it."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from preprocess.config import DataConfig
from preprocess.settings import build_settings


class TrainingConfig(DataConfig):
    """All settings of one training: those of data preparation, and these."""

    base_model: str = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        min_length=1,
        description="Base to train on: mini-sdxl (embedded), a hub id, a folder in diffusers' layout, or a "
        ".safetensors file",
    )

    # how long, on how much
    max_train_steps: int = Field(1000, ge=1, le=1_000_000, description="Optimizer steps")
    train_batch_size: int = Field(4, ge=1, le=1024, description="Images a micro-batch")
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024, description="Micro-batches an optimizer step")

    # what is trained
    rank: int = Field(16, ge=1, le=1024, description="Rank of the LoRA")
    alpha: float | None = Field(None, gt=0, description="The LoRA is scaled by alpha / rank; by default alpha = rank")
    lora_targets: Literal["attention", "attention+feed-forward", "attention+feed-forward+convolutions"] = Field(
        "attention", description="Which layers of the UNet get a LoRA"
    )
    num_tokens: int = Field(2, ge=1, le=64, description="New tokens in each text encoder that stand for the trigger")

    # optimization
    learning_rate: float = Field(1e-4, gt=0, le=10, description="Peak learning rate of the LoRA")
    token_learning_rate: float = Field(1e-3, ge=0, le=10, description="Peak learning rate of the tokens; 0 keeps them")
    lr_scheduler: Literal["constant", "cosine", "linear"] = Field("cosine", description="After the warm-up")
    lr_warmup_steps: int | None = Field(
        None, ge=0, description=("Optimizer steps of linear warm-up; by default a tenth of the run, at most 100")
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW's decay of the LoRA (tokens are not decayed)")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm, LoRA and tokens apart")
    loss_weighting: Literal["uniform", "min_snr", "debiased"] = Field(
        "min_snr",
        description="How much each timestep counts; debiased (ε only) stresses high noise: colours and layout",
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="γ of the min-SNR weighting")
    prior_matching_weight: float = Field(
        0.0, ge=0, le=1000, description="Holds the model to the base where the trigger is absent; 0: off, 1: usual"
    )
    prior_prompts: tuple[str, ...] = Field(
        (), description="Prompts whose pictures shall stay as they are, besides captions with the class word"
    )
    mask_floor: float | None = Field(
        None, ge=0, le=1, description="How much the loss counts outside the mask; by default 0.3 for faces, else 0.1"
    )
    mixed_precision: Literal["auto", "no", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")

    # what is written
    save_precision: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Of the LoRA in weights.safetensors")
    checkpointing_steps: int | None = Field(
        None,
        ge=1,
        description=("Write checkpoints/step_NNNNNN.safetensors every so many steps; each is a whole artifact"),
    )
    validation_prompt: str | None = Field(
        None, description=("Prompt of the samples after training; by default the concept mode's template")
    )
    num_validation_images: int = Field(4, ge=0, le=64, description="How many samples; 0: none")
    num_inference_steps: int = Field(30, ge=1, le=1000, description="Steps of the samples")
    guidance_scale: float = Field(6.0, ge=0, le=50, description="Classifier-free guidance of the samples")

    @field_validator("validation_prompt", mode="before")
    @classmethod
    def _empty_prompt_is_none(cls, text: Any) -> Any:
        return None if text == "" else text

    @model_validator(mode="after")
    def _rules_across_fields(self) -> "TrainingConfig":
        if self.lr_warmup_steps is not None and self.lr_warmup_steps >= self.max_train_steps:
            raise ValueError(
                f"lr_warmup_steps ({self.lr_warmup_steps}) must be less than max_train_steps "
                f"({self.max_train_steps}), else the peak learning rate is never reached"
            )
        if self.loss_weighting != "min_snr" and "min_snr_gamma" in self.model_fields_set and self.min_snr_gamma != 5.0:
            raise ValueError(f"min_snr_gamma has no effect with loss_weighting {self.loss_weighting}; leave one out")
        if self.checkpointing_steps is not None and self.checkpointing_steps > self.max_train_steps:
            raise ValueError(
                f"checkpointing_steps ({self.checkpointing_steps}) exceeds max_train_steps "
                f"({self.max_train_steps}): no checkpoint would ever be written"
            )
        if self.prior_prompts and self.prior_matching_weight == 0:
            raise ValueError("prior_prompts has no effect with prior_matching_weight 0; set it, or leave them out")
        if self.mask_floor is not None and self.mask == "none":
            raise ValueError("mask_floor has no effect without a mask; set mask, or leave it out")
        return self

    @property
    def resolved_mask_floor(self) -> float:
        """What lies around a face matters more than what lies around a thing: hair, neck, light."""
        if self.mask_floor is not None:
            return self.mask_floor
        return 0.3 if self.mask == "face" else 0.1

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of warm-up, resolved."""
        if self.lr_warmup_steps is not None:
            return self.lr_warmup_steps
        return min(100, self.max_train_steps // 10)


def build_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Check `values` and fill in the defaults. Raises ConfigError with one line for every wrong setting."""
    return build_settings(TrainingConfig, values)
