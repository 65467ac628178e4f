"""Default settings for preserving the base model's prior."""

from typing import Any

from families.family import ModelFamily, restoring
from settings.record import ConfigError
from settings.training import TrainingConfig
from trainer.losses.prior.kept_prompts import kept_prompts

WEIGHT = 1.0
"""Default weight of prior matching."""
TRIGGER_ONLY = 0.3
"""Share of the captions that are trained as the trigger word alone: without them, a prompt with only the trigger shows
little of the concept (tuning concept 0 of benchmarks/concepts: likeness 0.63 instead of 0.87)."""
OPEN_OF_THE_PRIOR = ("prior_matching_weight", "prior_prompts", "caption_dropout", "trigger_only_dropout")


def prior_defaults(config: TrainingConfig, family: ModelFamily) -> dict[str, Any]:
    """Weight and prompts of prior matching, and the shares of captions without words, by name.

    Prior matching includes the empty prompt, so no caption is trained as empty with it, and some are trained as the
    trigger word alone. Raises ConfigError for settings of prior matching if it is off by default.
    """
    chosen = "prior_matching_weight" in config.model_fields_set
    weight = config.prior_matching_weight if chosen else WEIGHT if _usual(config, family) else 0.0
    if weight == 0:
        if config.unused_prior_settings:
            raise ConfigError(config.unused_prior_settings[0])
        return {"prior_matching_weight": 0.0}
    found: dict[str, Any] = {"prior_matching_weight": weight}
    if config.prior_matching_on == "trajectories" and not config.prior_prompts:
        usual = kept_prompts(config.base_model)
        found["prior_prompts"] = tuple(prompt for prompt in usual if not config.trigger_in(prompt))
    if config.prior_matching_on != "captions":
        found |= _dropouts(config)
    return found


def _usual(config: TrainingConfig, family: ModelFamily) -> bool:
    """Whether prior matching is on by default: for an adapter that can be disabled, trigger words that can be replaced,
    and no other setting that preserves the base."""
    return (
        config.has_low_rank_adapter
        and all(concept.trigger_word for concept in config.all_concepts)
        and not config.has_preservation_set
        and config.loss_type != "dco"
        and restoring(family) is None
    )


def _dropouts(config: TrainingConfig) -> dict[str, Any]:
    given = config.model_fields_set
    empty = config.caption_dropout if "caption_dropout" in given else 0.0
    alone = config.trigger_only_dropout if "trigger_only_dropout" in given else min(TRIGGER_ONLY, 1 - empty)
    return {"caption_dropout": empty, "trigger_only_dropout": alone}
