"""All settings of a training. Cog inputs, YAML files and the command line are checked against them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from settings.composed import OF_THE_FIRST_PASS, ComposedSections
from settings.record import ConfigError, build_settings
from settings.rules.adapters import ADAPTER_RULES
from settings.sections.duration import DurationSection
from settings.sections.optimization import PRODIGY, SCHEDULE_FREE
from settings.sections.validation import EVALUATION_SETTINGS

MOST_TOKENS = 1000
"""Largest number of new tokens in each text encoder that an artifact can store."""


class TrainingConfig(ComposedSections):
    """All settings of one training, and the rules across sections."""

    @model_validator(mode="after")
    def _rules_across_sections(self) -> "TrainingConfig":
        for rule in (
            *LENGTH_RULES,
            _phase_rule,
            _mask_rule,
            *ADAPTER_RULES,
            _target_prompt_rule,
            _token_rule,
            _wordless_rule,
            _unrelated_rule,
            _evaluation_rule,
            _class_image_rule,
            _compile_rule,
            _checkpointing_rule,
        ):
            rule(self)
        return self

    @property
    def resolved_save_precision(self) -> Literal["fp16", "bf16", "fp32"]:
        """The precision of weights.safetensors. fp32 with adapter full: fp16 would round small changes away."""
        return self.save_precision or ("fp32" if self.trains_base else "fp16")

    @property
    def evaluates_checkpoints(self) -> bool:
        """Whether checkpoints are compared after training, if the encoders of the evaluation can be loaded."""
        return self.evaluate == "true" or (self.evaluate == "auto" and self.output.writes_checkpoints)

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were set, by name, without defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def planned(self, duration: DurationSection) -> "TrainingConfig":
        """Return the configuration with the given duration, and the warm-up that follows from it. Raises ConfigError
        for intervals and starts beyond its end."""
        planned = self.with_values(dict(duration))
        planned = planned.with_values({"lr_warmup_steps": planned.warmup_steps})
        try:
            for rule in LENGTH_RULES:
                rule(planned)
        except ValueError as error:
            raise ConfigError(f"{error}. The number of steps follows from the images, if it is not set") from error
        return planned

    def with_values(self, found: Mapping[str, Any]) -> "TrainingConfig":
        """Return the configuration with validated values filled in. Fields that the user set stay marked as set."""
        return TrainingConfig.model_construct(set(self.model_fields_set), **(dict(self) | dict(found)))


def build_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Validate `values` and fill in the defaults. Raises ConfigError with one line for every wrong setting."""
    return build_settings(TrainingConfig, values)


def _warmup_rule(config: TrainingConfig) -> None:
    if config.max_train_steps is not None and (config.lr_warmup_steps or 0) >= config.max_train_steps:
        raise ValueError(
            f"lr_warmup_steps ({config.lr_warmup_steps}) must be less than max_train_steps "
            f"({config.max_train_steps}), otherwise the peak learning rate is never reached"
        )


def _average_rule(config: TrainingConfig) -> None:
    if config.ema_start > 0 and config.max_train_steps is not None and config.ema_start >= config.max_train_steps:
        raise ValueError(
            f"ema_start ({config.ema_start}) must be less than max_train_steps ({config.max_train_steps}), "
            "otherwise nothing is averaged"
        )
    first = (config.ema_start // config.ema_interval + 2) * config.ema_interval  # before, it is a copy of the weights
    if config.ema_interval > 1 and config.max_train_steps is not None and first > config.max_train_steps:
        raise ValueError(
            f"ema_interval ({config.ema_interval}): weights would first be averaged at step {first}, which exceeds "
            f"max_train_steps ({config.max_train_steps}), and the last steps would be lost; set a smaller value"
        )


def _checkpoint_rule(config: TrainingConfig) -> None:
    if config.max_train_steps is not None and (config.checkpointing_steps or 0) > config.max_train_steps:
        raise ValueError(
            f"checkpointing_steps ({config.checkpointing_steps}) exceeds max_train_steps "
            f"({config.max_train_steps}), so no checkpoint would be written; set a smaller value"
        )
    if config.max_train_epochs is not None and (config.checkpointing_epochs or 0) > config.max_train_epochs:
        raise ValueError(
            f"checkpointing_epochs ({config.checkpointing_epochs}) exceeds max_train_epochs "
            f"({config.max_train_epochs}), so no checkpoint would be written; set a smaller value"
        )
    if config.max_train_minutes is not None and (config.checkpointing_minutes or 0) > config.max_train_minutes:
        raise ValueError(
            f"checkpointing_minutes ({config.checkpointing_minutes:g}) exceeds max_train_minutes "
            f"({config.max_train_minutes:g}), so no checkpoint would be written; set a smaller value"
        )


def _validation_rule(config: TrainingConfig) -> None:
    if config.max_train_steps is not None and (config.validation_steps or 0) > config.max_train_steps:
        raise ValueError(
            f"validation_steps ({config.validation_steps}) exceeds max_train_steps ({config.max_train_steps}), so "
            "nothing would be validated; set a smaller value"
        )
    if config.max_train_steps is None or config.validation_steps is None or config.early_stopping_patience is None:
        return
    earliest = (config.early_stopping_patience + 1) * config.validation_steps  # the first score is an improvement
    if earliest >= config.max_train_steps:
        raise ValueError(
            f"early_stopping_patience ({config.early_stopping_patience}) could end the run at step {earliest} at the "
            f"earliest, which is not before max_train_steps ({config.max_train_steps}), so it has no effect; set a "
            "smaller value, or smaller validation_steps"
        )


def _sample_rule(config: TrainingConfig) -> None:
    if config.max_train_steps is not None and (config.sample_steps or 0) > config.max_train_steps:
        raise ValueError(
            f"sample_steps ({config.sample_steps}) exceeds max_train_steps ({config.max_train_steps}), so there would "
            "be no samples during the training; set a smaller value"
        )


LENGTH_RULES = (_warmup_rule, _average_rule, _checkpoint_rule, _validation_rule, _sample_rule)
"""Rules about the length of the run, which is often known only when the images are."""


def _phase_rule(config: TrainingConfig) -> None:
    for name in filter(config.differs, ("tokens_first", "tokens_until")):
        if config.token_learning_rate == 0:
            raise ValueError(f"{name} has no effect with token_learning_rate 0; leave one of them out")
        if config.adapter == "none":
            raise ValueError(f"{name}: adapter: none trains only the tokens; leave it out, or choose lora")


def _mask_rule(config: TrainingConfig) -> None:
    if config.mask_floor is not None and config.mask == "none":
        raise ValueError("mask_floor has no effect without a mask; set mask, or leave it out")
    if config.token_attention_weight > 0 and config.mask == "none":
        raise ValueError("token_attention_weight needs a mask of the subject; set mask: subject or mask: face")


def _token_rule(config: TrainingConfig) -> None:
    if len(config.class_words) * config.num_tokens > MOST_TOKENS:
        raise ValueError(
            f"num_tokens: {config.num_tokens} for each of {len(config.class_words)} concepts exceeds the limit of "
            f"{MOST_TOKENS} new tokens; lower it"
        )
    if config.train_tokens and config.class_words:
        raise ValueError(
            'train_tokens needs unchanged captions, and a trigger_word is inserted into captions; set trigger_word: ""'
        )
    others = {"loss_type: dco": config.loss_type == "dco", "init_weights": config.init_weights is not None}
    for name, has_it in others.items():
        if config.train_tokens and has_it:
            raise ValueError(f"{name} does not support train_tokens; leave one of them out")
    names = ("token_norm_weight", "token_covariance_weight", "token_retraction", "train_existing_tokens")
    given = [name for name in names if getattr(config, name) > 0]
    if given and config.token_learning_rate == 0:
        raise ValueError(f"{given[0]} has no effect with token_learning_rate 0; leave one out")
    if config.token_retraction > 0 and config.token_optimizer in (*PRODIGY, *SCHEDULE_FREE):
        raise ValueError(
            f"token_retraction distorts the statistics of {config.token_optimizer}; use token_norm_weight, or "
            "token_optimizer: adamw"
        )


def _target_prompt_rule(config: TrainingConfig) -> None:
    without = [prompt for prompt in config.target_prompts if config.trigger_in(prompt) is None]
    if without:
        if not config.class_words:
            raise ValueError("target_prompts need a trigger word, and trigger_word is empty; leave target_prompts out")
        words = " or ".join(config.class_words)
        raise ValueError(f"target_prompts: {without[0]!r} does not contain the trigger word {words}; add it")


def _unrelated_rule(config: TrainingConfig) -> None:
    for name in ("prior_prompts", "unrelated_prompts"):
        for prompt in getattr(config, name):
            if trigger := config.trigger_in(prompt):
                raise ValueError(
                    f"{name}: {prompt!r} contains the trigger word {trigger}, whose images change; remove it"
                )


def _wordless_rule(config: TrainingConfig) -> None:
    """Rules for concepts with an empty trigger_word."""
    if config.is_controlnet or all(concept.trigger_word for concept in config.all_concepts):
        return
    if config.prior_matching_weight > 0:
        raise ValueError(
            "prior_matching_weight needs captions without their trigger word, and a trigger_word is empty; "
            "leave it out, or preserve the prior with preservation_data"
        )
    if config.class_words:
        return
    names = ("num_tokens", "train_existing_tokens", "token_attention_weight")
    given = [name for name in names if name in config.model_fields_set and getattr(config, name) > 0]
    if given:
        raise ValueError(f"{given[0]} has no effect with an empty trigger_word, which has no tokens; leave it out")


def _class_image_rule(config: TrainingConfig) -> None:
    if config.num_class_images == 0:
        return
    if config.preservation_data is not None:
        raise ValueError("num_class_images and preservation_data are both preservation sets; leave one of them out")
    if config.class_prompt is None and not any(concept.class_word for concept in config.all_concepts):
        raise ValueError("num_class_images needs a class_word (or class_prompt) for its prompt")


def _evaluation_rule(config: TrainingConfig) -> None:
    if config.class_words and any("{trigger}" not in prompt for prompt in config.evaluation_prompts):
        raise ValueError("evaluation_prompts: each must contain {trigger}, which is replaced by the trigger word")
    if not config.class_words and any("{trigger}" in prompt for prompt in config.evaluation_prompts):
        raise ValueError("evaluation_prompts: {trigger} stands for the trigger_word, which is empty; leave it out")
    settings = [name for name in EVALUATION_SETTINGS if name in config.model_fields_set and config.differs(name)]
    if settings and config.evaluate == "false":
        raise ValueError(f"{settings[0]} has no effect with evaluate: false; leave one of them out")
    if settings and not config.evaluates_checkpoints and not config.stop_when_settled:
        raise ValueError(
            f"{settings[0]} has no effect without checkpoints to evaluate; set checkpointing_steps, or evaluate: true"
        )


def _compile_rule(config: TrainingConfig) -> None:
    for name in OF_THE_FIRST_PASS:
        if config.compile != "never" and getattr(config, name) > 0:
            raise ValueError(f"{name} does not work with compiled blocks; leave it out, or set compile: never")


def _checkpointing_rule(config: TrainingConfig) -> None:
    if config.gradient_checkpointing == "always" and config.needs_first_activations:
        raise ValueError(
            "gradient_checkpointing: always computes activations twice, which adapter_dropout and "
            "token_attention_weight do not support; leave one of them out"
        )
