"""Replaces settings that are not given by the family's defaults, and checks settings of triggers without tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

from families.family import ModelFamily
from settings.record import ConfigError
from settings.sections.adapter import CONTROLNET_RATE, PERFUSION_RATE, TEXT_ENCODER_RATE
from settings.sections.optimization import TOKEN_RATE, OptimizationSection, default_rate
from settings.training import TrainingConfig
from trainer.losses.prior.defaults import OPEN_OF_THE_PRIOR
from trainer.rates import adapter_rate, text_encoder_factor

OF_TOKENS = (
    *("token_init", "token_init_words", "token_init_pattern", "token_retraction", "token_norm_weight"),
    *("token_covariance_weight", "token_attention_weight", "token_learning_rate", "token_optimizer"),
    *("train_tokens", "token_weight_decay", "token_max_grad_norm", "tokens_first", "tokens_until"),
)
"""Settings without effect if the trigger is a plain word."""
OF_THE_ADAPTER = ("learning_rate", "optimizer", "weight_decay")
"""Settings without effect if only tokens are trained."""
BY_FAMILY = ("guidance_scale", "num_inference_steps", "timestep_bias")
"""Settings with a default that depends on the family."""
OPEN = ("num_tokens", "train_tokens", "loss_weighting", "lora_targets", *OPEN_OF_THE_PRIOR, *BY_FAMILY)
"""Settings that are treated as not given unless they are marked as set, as in a resumed configuration."""


def open_settings(
    given: Mapping[str, Any], optimization: OptimizationSection, has_trigger: bool, family: ModelFamily
) -> dict[str, Any]:
    """Values by name for settings that are not given: learning rates, tokens, timesteps, samples. `given`: the user's
    settings. `has_trigger`: whether any concept has a trigger word.

    Raises ConfigError for tokens that this family does not support.
    """
    count = _num_tokens(given, has_trigger, family)
    by_family = {name: getattr(family.defaults, name) for name in BY_FAMILY if name not in given}
    if given.get("timestep_sampling") == "uniform":  # a bias would make it logit-normal
        by_family.pop("timestep_bias", None)
    return {"num_tokens": count, **_rates(given, optimization, count, family), **by_family}


def token_notes(config: TrainingConfig) -> Iterator[str]:
    """Yield a note for each given setting of the adapter if only tokens are trained."""
    if config.adapter != "none":
        return
    for name in OF_THE_ADAPTER:
        if name in config.model_fields_set and config.differs(name):
            yield f"{name} has no effect with adapter: none, which only trains the tokens; set token_{name} for them"


def _rates(
    given: Mapping[str, Any], optimization: OptimizationSection, num_tokens: int, family: ModelFamily
) -> dict[str, float]:
    """Learning rates of the adapter, of the tokens, and of text encoders if they are trained."""
    own = {"controlnet": CONTROLNET_RATE, "perfusion": PERFUSION_RATE}.get(given.get("adapter", ""))
    usual = own or family.defaults.learning_rate or adapter_rate(family)
    by_text_width = text_encoder_factor(family)
    token_usual = by_text_width * TOKEN_RATE
    optimizer, token_optimizer = optimization.optimizer, optimization.token_optimizer
    rates = {
        "learning_rate": default_rate(optimization.learning_rate, optimizer, usual),
        "token_learning_rate": default_rate(optimization.token_learning_rate, token_optimizer, token_usual),
    }
    if num_tokens == 0 and not given.get("train_tokens"):
        rates["token_learning_rate"] = 0.0
    if given.get("train_text_encoder") and given.get("text_encoder_learning_rate") is None:
        of_text = default_rate(None, optimizer, by_text_width * TEXT_ENCODER_RATE)
        rates["text_encoder_learning_rate"] = rates["learning_rate"] if given.get("adapter") == "full" else of_text
    return rates


def _is_controlnet(given: Mapping[str, Any]) -> bool:
    return given.get("adapter") == "controlnet"


def _num_tokens(given: Mapping[str, Any], has_trigger: bool, family: ModelFamily) -> int:
    if _is_controlnet(given):
        if given.get("num_tokens", 0) > 0:
            raise ConfigError("num_tokens has no effect with adapter: controlnet, which trains no tokens; leave it out")
        _require_nothing_of_tokens(given, "adapter: controlnet, which trains no tokens")
        return 0
    if given.get("train_tokens"):
        _require_learning(family, "train_tokens")
        return 0
    if given.get("train_existing_tokens"):
        _require_learning(family, "train_existing_tokens")
        return 1
    if not has_trigger:
        _require_nothing_of_tokens(given, "an empty trigger_word, which has no tokens")
        return 0
    if given.get("adapter") == "perfusion":
        return 1
    count: int = given.get("num_tokens", family.defaults.num_tokens)
    if count > 0:
        _require_learning(family, f"num_tokens: {count}")
    if count < family.defaults.fewest_tokens:
        raise ConfigError(
            f"num_tokens: {count}: for base models of the family {family.name} the trigger word is trained as new "
            "tokens; give at least "
            f"{family.defaults.fewest_tokens}"
        )
    if count == 0:
        _require_nothing_of_tokens(given, "num_tokens: 0, with which the trigger is a plain word")
    return count


def _require_learning(family: ModelFamily, setting: str) -> None:
    if not family.text_encoders:
        raise ConfigError(
            f"{setting}: prompts of base models of the family {family.name} are encoded by a frozen model without new "
            "tokens; leave it out, and the trigger is a plain word"
        )


def _require_nothing_of_tokens(given: Mapping[str, Any], why: str) -> None:
    fields = TrainingConfig.model_fields
    # in a resumed run the rate is filled in as 0
    idle = [name for name in OF_TOKENS if name in given and given[name] not in (fields[name].default, 0.0)]
    if idle:
        raise ConfigError(f"{idle[0]} has no effect with {why}; leave it out")
    if given.get("adapter") == "none":
        raise ConfigError(
            f"adapter: none only trains tokens, and there are none with {why}, so nothing would be trained; choose "
            "another adapter"
        )
