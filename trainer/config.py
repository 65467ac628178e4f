"""The single truth about every setting: Cog inputs, YAML files and the command line are checked against it."""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator


class ConfigError(ValueError):
    """A setting that is unknown, out of range or contradictory. The text names the remedy."""


class TrainingConfig(BaseModel):
    """All settings of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # the base and the concept
    base_model: str = Field(
        "stabilityai/stable-diffusion-xl-base-1.0",
        min_length=1,
        description=(
            "Base to train on: mini-sdxl (embedded), a hub id, a folder in diffusers' layout, or a .safetensors file"
        ),
    )
    concept_mode: Literal["face", "object", "style"] = Field("object", description="What the images show")
    trigger_word: str = Field(
        "TOK", min_length=1, max_length=64, description=("The new word that calls the concept in prompts")
    )
    class_word: str | None = Field(
        None,
        max_length=64,
        description=(
            "What kind of thing it is (dog, woman, watercolour): starts the new tokens, and goes into default captions"
        ),
    )
    captioner: Literal["none"] = Field(
        "none",
        description=(
            "Model that captions images without a caption of their own; none: a template with the trigger word"
        ),
    )
    resolution: int | None = Field(
        None, ge=32, le=4096, description=("Side of the trained square in pixels; by default the base's own")
    )

    # how long, on how much
    max_train_steps: int = Field(1000, ge=1, le=1_000_000, description="Optimizer steps")
    train_batch_size: int = Field(4, ge=1, le=1024, description="Images a micro-batch")
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024, description="Micro-batches an optimizer step")
    seed: int = Field(0, ge=0, lt=2**63, description="Seeds every draw of the training")

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
    caption_dropout: float = Field(0.05, ge=0, le=1, description="Share of captions trained as empty")
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

    @field_validator("trigger_word")
    @classmethod
    def _a_single_word(cls, trigger_word: str) -> str:
        if any(character.isspace() for character in trigger_word):
            raise ValueError("must be one word without spaces, such as TOK or my-robot")
        return trigger_word

    @field_validator("class_word", "validation_prompt", mode="before")
    @classmethod
    def _empty_is_none(cls, text: Any) -> Any:
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
        return self

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of warm-up, resolved."""
        if self.lr_warmup_steps is not None:
            return self.lr_warmup_steps
        return min(100, self.max_train_steps // 10)


def build_config(values: dict[str, Any]) -> TrainingConfig:
    """Check `values` and fill in the defaults.

    Raises ConfigError with one line for every wrong setting, naming the nearest name for an unknown one.
    """
    try:
        return TrainingConfig(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None


def parse_config(text: str, source: str) -> dict[str, Any]:
    """The settings in a YAML or JSON text. `source` names the text in messages.

    Raises ConfigError when it is not YAML, or not a mapping of names to values.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: cannot be read as YAML or JSON: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{source}: must be a mapping such as 'max_train_steps: 500', one setting a line")
    return values


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file. Raises ConfigError when it cannot be read."""
    try:
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from None


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, TrainingConfig.model_fields, n=1)
        return f"{name}: unknown setting" + (f"; did you mean {near[0]}?" if near else "; see python train.py --help")
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (given: {problem['input']!r})" if name else ""
    return f"{name}: {message}{given}" if name else message
