"""How parameters are updated."""

from typing import Literal

from pydantic import Field

from preprocess.settings import Settings


class OptimizationSection(Settings):
    """Optimizers, learning rates and schedules."""

    learning_rate: float = Field(1e-4, gt=0, le=10, description="Peak learning rate of the LoRA")
    token_learning_rate: float = Field(1e-3, ge=0, le=10, description="Peak learning rate of the tokens; 0 keeps them")
    lr_scheduler: Literal["constant", "cosine", "linear"] = Field("cosine", description="After the warm-up")
    lr_warmup_steps: int | None = Field(
        None, ge=0, description="Optimizer steps of linear warm-up; by default a tenth of the run, at most 100"
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW's decay of the LoRA (tokens are not decayed)")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm, LoRA and tokens apart")
    mixed_precision: Literal["auto", "no", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
