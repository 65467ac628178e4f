"""Optimizers, learning rates and schedules."""

from typing import Literal

from pydantic import Field, model_validator

from settings.callers import Open
from settings.record import Settings

OptimizerName = Literal[
    "adamw", "adamw_8bit", "adamw_schedule_free", "prodigy", "prodigy_schedule_free", "adafactor",
    "came", "lion", "muon",
]  # fmt: skip
PrecisionName = Literal["auto", "no", "bf16", "fp16"]
SchedulerName = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "warmup_stable_decay"]

PRODIGY: tuple[OptimizerName, ...] = ("prodigy", "prodigy_schedule_free")
SCHEDULE_FREE: tuple[OptimizerName, ...] = ("adamw_schedule_free", "prodigy_schedule_free")
BY_ROWS: tuple[OptimizerName, ...] = ("adamw", "adamw_8bit")
"""Optimizers that can update some rows of a weight without the others."""
ADAPTER_RATE, TOKEN_RATE = 1e-4, 1e-3
"""Usual rates with AdamW, for base models of SDXL's width (trainer/rates.py)."""
PLAIN_WORD_RATE = 4e-4
"""The adapter's rate if a language model without new tokens encodes the prompts, for 500 to 3000 steps: 4e-4 for
FLUX.1 in Replicate's trainer, 5e-4 for Qwen-Image in fal's, 1000 steps each. 1e-4 is usual in longer runs."""
RELATIVE_RATES: dict[str, float] = {"lion": 0.2, "came": 0.25}
"""Default rates relative to AdamW's. Lion: every step has the size of the rate (Chen et al. 2023, §5: 3 to 10 times
less). CAME: at AdamW's rate the embedded base loses other prompts (docs/ablation.md); at a quarter it does not."""
PRODIGY_RATES = (0.1, 10.0)
"""Allowed learning rates with Prodigy, which multiplies them by its estimate: use 1; 1e-4 trains nothing."""


class OptimizationSection(Settings):
    """Optimizers, learning rates and schedules."""

    optimizer: Open[OptimizerName] = Field(
        "adamw",
        description="Optimizer of the adapter; adamw_8bit, came, lion and the schedule-free ones need an additional "
        "package. muon orthogonalises updates of matrices",
    )
    token_optimizer: Open[OptimizerName] = Field("adamw", description="Optimizer of the tokens")
    learning_rate: Open[float | None] = Field(
        None,
        gt=0,
        le=10,
        description="Peak learning rate of the adapter; by default 1e-4, 4e-4 if prompts are encoded by a language "
        "model without new tokens, more for base models narrower than SDXL, a fifth of it with Lion, a quarter with "
        "CAME, and 1 with Prodigy",
    )
    token_learning_rate: Open[float | None] = Field(
        None,
        ge=0,
        le=10,
        description="Peak learning rate of the tokens; by default 1e-3, more for text encoders narrower than CLIP-L, a "
        "fifth of it with Lion, a quarter with CAME, and 1 with Prodigy; 0: not trained",
    )
    scale_lr: Open[bool] = Field(
        False,
        description="Multiply all learning rates by the number of images per step: batch size, accumulation and "
        "processes",
    )
    lora_plus_ratio: Open[float] = Field(
        1.0,
        ge=1,
        le=64,
        description="LoRA+: ratio of the learning rate of the up projections to that of the down projections; usually "
        "4 to 16, with half the learning_rate",
    )
    prodigy_d_coef: Open[float] = Field(
        1.0, gt=0, le=10, description="Factor of Prodigy's estimated rate: 0.5 for faces, 1 otherwise, 2 is high"
    )
    lr_scheduler: Open[SchedulerName | None] = Field(
        None,
        description="Schedule after the warm-up; by default cosine; constant for schedule-free optimizers, and "
        "warmup_stable_decay with stop_when_settled",
    )
    lr_num_cycles: Open[int] = Field(1, ge=1, le=100, description="Number of cycles of cosine_with_restarts")
    lr_power: Open[float] = Field(1.0, gt=0, le=10, description="Power of the polynomial schedule; 1 is linear")
    lr_warmup_steps: Open[int | None] = Field(
        None, ge=0, description="Optimizer steps of linear warm-up; by default a tenth of the run, at most 100"
    )
    weight_decay: Open[float] = Field(1e-2, ge=0, le=1, description="Decoupled weight decay of the adapter")
    token_weight_decay: Open[float] = Field(
        0.0, ge=0, le=1, description="Decoupled weight decay of the tokens; values above 0 weaken the trigger word"
    )
    max_grad_norm: Open[float] = Field(
        1.0, gt=0, description="Gradients are clipped to this norm, separately for adapter and tokens"
    )
    token_max_grad_norm: Open[float | None] = Field(
        None, gt=0, description="Clipping norm of the tokens' gradients; by default max_grad_norm"
    )
    ema_decay: Open[float] = Field(
        0.0,
        ge=0,
        lt=1,
        description="Save an exponential moving average of the weights over about 1 / (1 - decay) steps; 0: the last "
        "weights",
    )
    ema_start: Open[int] = Field(
        0, ge=0, description="Step at which averaging starts; before, the average is a copy of the weights"
    )
    ema_interval: Open[int] = Field(
        1, ge=1, le=1000, description="Number of steps between updates of the average, with ema_decay"
    )
    mixed_precision: Open[PrecisionName] = Field(
        "auto",
        description="auto: bf16 if the GPU supports it, otherwise fp32. fp16, with loss scaling, is for GPUs without "
        "bf16 (T4, 20xx). With adapter full, the weights are in fp32 and bf16 means autocast",
    )

    @property
    def resolved_learning_rate(self) -> float:
        """The learning rate of the adapter, resolved."""
        return default_rate(self.learning_rate, self.optimizer, ADAPTER_RATE)

    @property
    def resolved_token_learning_rate(self) -> float:
        """The learning rate of the tokens, resolved; 0: they are not trained."""
        return default_rate(self.token_learning_rate, self.token_optimizer, TOKEN_RATE)

    def scheduler_of(self, optimizer: OptimizerName) -> SchedulerName:
        """Return the schedule of an optimizer."""
        return self.lr_scheduler or ("constant" if optimizer in SCHEDULE_FREE else "cosine")

    @model_validator(mode="after")
    def _optimization_rules(self) -> "OptimizationSection":
        adapter = ("optimizer", "learning_rate", "max_grad_norm")
        _optimizer_rules(self, self.optimizer, self.learning_rate, self.max_grad_norm, adapter)
        if self.token_learning_rate != 0:
            tokens = ("token_optimizer", "token_learning_rate", "token_max_grad_norm")
            clip = self.token_max_grad_norm or self.max_grad_norm
            _optimizer_rules(self, self.token_optimizer, self.token_learning_rate, clip, tokens)
        _no_effect_rules(self)
        return self


def default_rate(given: float | None, optimizer: OptimizerName, usual: float) -> float:
    """Return the given rate, or the optimizer's default. `usual`: AdamW's default."""
    if given is not None:
        return given
    return 1.0 if optimizer in PRODIGY else RELATIVE_RATES.get(optimizer, 1.0) * usual


def _optimizer_rules(
    config: OptimizationSection, optimizer: OptimizerName, rate: float | None, clip: float, names: tuple[str, str, str]
) -> None:
    setting, rate_setting, clip_setting = names
    low, high = PRODIGY_RATES
    if optimizer in PRODIGY:
        if rate is not None and not low <= rate <= high:
            raise ValueError(
                f"{rate_setting} {rate:g} is far from 1, and {optimizer} multiplies it by the rate that it estimates; "
                "leave it out, or change prodigy_d_coef"
            )
        if config.lr_scheduler == "cosine_with_restarts":
            raise ValueError(f"{setting} {optimizer} does not support restarts; set lr_scheduler: cosine or constant")
        if clip < 1:
            raise ValueError(
                f"{clip_setting} {clip:g}: clipping below 1 distorts the rate that {optimizer} estimates; set 1 or more"
            )
    if optimizer in SCHEDULE_FREE and config.lr_scheduler not in (None, "constant"):
        raise ValueError(
            f"{setting} {optimizer} averages the weights instead of decaying the rate; leave lr_scheduler out, or set "
            "constant"
        )


def _no_effect_rules(config: OptimizationSection) -> None:
    trained = config.token_learning_rate != 0
    optimizers = {config.optimizer} | ({config.token_optimizer} if trained else set())
    rules = (
        (config.ema_decay == 0 and (config.ema_start > 0 or config.ema_interval > 1),
         "ema_start and ema_interval have no effect without ema_decay; set it, or leave them out"),
        (config.ema_decay > 0 and optimizers <= set(SCHEDULE_FREE),
         "ema_decay has no effect: schedule-free optimizers already average the weights; leave it out"),
        (config.lr_num_cycles != 1 and config.lr_scheduler != "cosine_with_restarts",
         "lr_num_cycles has no effect without lr_scheduler: cosine_with_restarts"),
        (config.lr_power != 1 and config.lr_scheduler != "polynomial",
         "lr_power has no effect without lr_scheduler: polynomial"),
        (config.scale_lr and bool(optimizers & set(PRODIGY)),
         "scale_lr: prodigy estimates the rate itself, for any batch size; leave one of them out"),
        (config.prodigy_d_coef != 1 and not optimizers & set(PRODIGY),
         "prodigy_d_coef has no effect without optimizer: prodigy"),
        (config.lora_plus_ratio != 1 and config.optimizer in PRODIGY,
         f"lora_plus_ratio: {config.optimizer} estimates one rate for all parameters; leave one of them out"),
        (config.token_optimizer == "muon" and trained,
         "token_optimizer: muon needs weight matrices, and token embeddings are rows; choose adamw"),
        (config.token_optimizer != "adamw" and not trained,
         "token_optimizer has no effect with token_learning_rate 0; leave one out"),
        (config.token_weight_decay > 0 and not trained,
         "token_weight_decay has no effect with token_learning_rate 0; leave one out"),
        (config.token_max_grad_norm is not None and not trained,
         "token_max_grad_norm has no effect with token_learning_rate 0; leave one out"),
    )  # fmt: skip
    for broken, message in rules:
        if broken:
            raise ValueError(message)
