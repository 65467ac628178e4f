"""Resolves defaults that depend on the base model, and the base's requirements on the data."""

from collections.abc import Mapping, Sequence

from families.family import ModelFamily, frozen_reader, restoring
from families.parts.placeholder_tokens import expand_triggers
from preprocess.captions.labels import MAX_TOKENS
from preprocess.prepare import BaseRequirements
from sampler.prompts.encoding import require_readable
from sampler.request import RequestError
from settings.preparation import DataConfig
from settings.record import ConfigError
from settings.sections.validation import ValidationSection
from settings.training import TrainingConfig
from trainer.adapters.kinds import KINDS
from trainer.adapters.requirements import LINEAR_INITS, check_targets
from trainer.distributed.sharded_base import require_shardable
from trainer.duration import settling_defaults
from trainer.losses.prior.defaults import prior_defaults
from trainer.objective_rules import require_objective, require_restorable
from trainer.open_settings import open_settings
from trainer.rates import denoiser_factor
from trainer.tokens.from_images import image_tower
from trainer.tokens.initialization import token_starts, word_starts
from trainer.trainables.controlnet import require_controllable, require_form, resolved_blocks
from trainer.trainables.perfusion import require_edits
from trainer.validation.sample_prompts import sample_prompts

NARROW = 8.0
"""Factor of the usual learning rate from which a base is so narrow that adapters on attention layers only are not
sufficient."""
LAYER_KINDS = ("attention", "feed-forward", "convolutions")
COMMON_TOKEN = "a "
"""A text with one token in every tokenizer."""


def resolve(config: TrainingConfig, family: ModelFamily) -> TrainingConfig:
    """Fill in the settings that depend on the base. Raises ConfigError for a resolution that the base does not
    support."""
    sides = config.preparation.resolutions or (family.defaults.resolution or family.native_resolution,)
    if config.bucket_step and config.bucket_step % family.size_multiple:
        raise ConfigError(
            f"bucket_step: {config.bucket_step} is not a multiple of {family.size_multiple}, as {config.base_model} "
            "requires"
        )
    for side in sides:
        _require_drawable(side, config.base_model, family)
    filled = open_settings(config.given, config.optimization, bool(config.class_words), family)
    _require_fitting(config, family, filled["num_tokens"])
    draws_from_prompts = not config.is_controlnet and restoring(family) is None
    found = {
        "loss_weighting": _fitting_gamma(config, _loss_weighting(config, family), family),
        "controlnet_blocks": resolved_blocks(config.controlnet_blocks, family) if config.is_controlnet else (),
        "lora_targets": _lora_targets(config, family),
        "resolution": sides if len(sides) > 1 else sides[0],
        "alpha": config.resolved_alpha if config.has_alpha else None,
        **sample_prompts(config.validation, config.preparation, concepts_apart=draws_from_prompts),
        **prior_defaults(config, family),
        **settling_defaults(config, family),
    }
    return config.with_values(filled | found)


def _require_drawable(resolution: int, base_model: str, family: ModelFamily) -> None:
    if resolution % family.size_multiple:
        near = max(1, round(resolution / family.size_multiple)) * family.size_multiple
        raise ConfigError(
            f"resolution: {resolution} is not a multiple of {family.size_multiple}, as {base_model} requires; the "
            f"nearest is {near}"
        )
    if family.largest_side and resolution > family.largest_side:
        raise ConfigError(
            f"resolution: {resolution} is more than {family.largest_side}, the largest side for which {base_model} has "
            f"positions; its native resolution is {family.native_resolution}"
        )


def _require_fitting(config: TrainingConfig, family: ModelFamily, num_tokens: int) -> None:
    """Raises ConfigError, before training starts, for settings that this base does not support."""
    if config.is_controlnet:
        require_form(config.adapters, config.control, require_controllable(family), config.base_model)
    if config.is_perfusion:
        require_edits(family)
    require_restorable(config, config.base_model, family)
    if config.shard_base:
        require_shardable(config.base_model, family)
    _require_readable_prompts(config.validation, config.preparation, num_tokens, family)
    check_targets(family, config.adapters)
    require_objective(config.objective, config.noise, config.base_model, family)
    if num_tokens > 0:
        token_starts(config.tokens, [concept for concept in config.all_concepts if concept.trigger_word], family)
    word_starts(config.train_tokens, family)
    if config.token_init == "images":
        image_tower(config.base_model)


def _lora_targets(config: TrainingConfig, family: ModelFamily) -> str:
    """The attention layers; all kinds of layers for a base that is so narrow that attention layers cannot represent
    details."""
    chosen = "lora_targets" in config.model_fields_set or config.lora_target_regex is not None
    kind = KINDS.get(config.adapter)
    able = kind is not None and not kind.linear_only and config.lora_init not in LINEAR_INITS
    if chosen or not able or denoiser_factor(family) < NARROW:
        return config.lora_targets
    return "+".join(kind for kind in LAYER_KINDS if family.adapter_modules[kind])


def _loss_weighting(config: TrainingConfig, family: ModelFamily) -> str:
    """Return the loss weighting for this base.

    Flow matching uses uniform weights, since its timesteps are already sampled unevenly; it also supports adaptive
    weights, and others raise ConfigError. Also uniform, unless the user sets another: bases with zero terminal SNR
    (min-SNR weights v by SNR, which is 0 at pure noise, so nothing would be trained there; Lin et al. 2023 train
    without weights), ControlNets (Zhang et al. 2023), and EDM's, whose weights are part of its noise process. A family
    may have a default of its own. Other ε-prediction is debiased (Yu et al. 2023, arXiv 2310.08442), which learned most
    of the tuning concepts.
    """
    weighting, process = config.loss_weighting, family.noise_process
    chosen = "loss_weighting" in config.model_fields_set
    if process.prediction_type != "flow":
        if not chosen and family.defaults.loss_weighting is not None:
            return family.defaults.loss_weighting
        if chosen:
            return weighting
        if process.zero_terminal_snr or config.is_controlnet or process.prediction_type == "edm":
            return "uniform"
        return "debiased" if process.prediction_type == "epsilon" and config.loss_type != "dco" else weighting
    if chosen and weighting == "adaptive":
        return weighting
    if chosen and weighting != "uniform":
        raise ConfigError(
            f"loss_weighting: {weighting} only supports ε- and v-prediction, but {config.base_model} is trained with "
            "flow matching, which samples important timesteps more often instead; set uniform or adaptive, or leave it "
            "out"
        )
    return "uniform"


def _fitting_gamma(config: TrainingConfig, weighting: str, family: ModelFamily) -> str:
    """Return the weighting. Raises ConfigError if min_snr_gamma is set, and this base's default has no γ."""
    if config.differs("min_snr_gamma") and weighting not in ("min_snr", "soft_min_snr"):
        remedy = "leave it out"
        if family.noise_process.prediction_type != "flow":
            remedy = "set loss_weighting: min_snr, or leave it out"
        raise ConfigError(
            f"min_snr_gamma has no effect with loss_weighting {weighting}, the default for {config.base_model}; "
            f"{remedy}"
        )
    return weighting


def _require_readable_prompts(
    validation: ValidationSection, preparation: DataConfig, num_tokens: int, family: ModelFamily
) -> None:
    """Raises ConfigError for a prompt of samples or evaluation that the base does not support as written."""
    found = sample_prompts(validation, preparation)
    prompts = {f"validation_prompts, {number}": text for number, text in enumerate(found["validation_prompts"], 1)}
    if not prompts and found["validation_prompt"] is not None:
        prompts = {"validation_prompt": found["validation_prompt"]}
    trigger = next(iter(preparation.class_words), "")
    for name in ("evaluation_prompts", "unrelated_prompts"):
        filled = [text.replace("{trigger}", COMMON_TOKEN * num_tokens or trigger) for text in getattr(validation, name)]
        prompts |= {f"{name}, {number}": text for number, text in enumerate(filled, start=1)}
    try:
        require_readable(prompts, _stand_ins(preparation, num_tokens), family)
    except RequestError as error:
        raise ConfigError(str(error)) from error


def base_requirements(family: ModelFamily, preparation: DataConfig, num_tokens: int) -> BaseRequirements:
    """Return the base's requirements on images and captions. `num_tokens`: placeholder tokens per trigger word."""
    words, frozen = _stand_ins(preparation, num_tokens), frozen_reader(family)
    return BaseRequirements(
        family.size_multiple,
        lambda caption: count_tokens(caption, family, words),
        MAX_TOKENS if frozen is None else frozen.count_tokens("")[1],
        family.largest_side,
    )


def count_tokens(caption: str, family: ModelFamily, words: Mapping[str, Sequence[str]]) -> int:
    """Count the tokens of a caption, including start and end of text, by the tokenizer with the most tokens. `words`
    maps each trigger to its placeholder tokens.
    """
    text = expand_triggers(caption, words)
    frozen = frozen_reader(family)
    if frozen is not None:
        return frozen.count_tokens(text)[0]
    return max(len(tokenizer(text).input_ids) for tokenizer in family.tokenizers)


def _stand_ins(preparation: DataConfig, num_tokens: int) -> dict[str, list[str]]:
    return {trigger: [COMMON_TOKEN] * num_tokens for trigger in preparation.class_words}
