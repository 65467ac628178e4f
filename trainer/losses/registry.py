"""The list of loss terms. A new term is a file in this folder and a line here."""

from collections.abc import Mapping, Sequence

from families.family import ModelFamily
from settings.preparation import DataConfig
from settings.sections.objective import ObjectiveSection
from trainer.data.latent_cache import CachedExample
from trainer.execution.attention_capture import AttentionCapture
from trainer.losses.adapter_l1 import AdapterL1
from trainer.losses.adaptive import AdaptiveMeanSquaredError
from trainer.losses.direct_consistency import DirectConsistency
from trainer.losses.huber import Huber
from trainer.losses.mean_squared_error import MeanSquaredError
from trainer.losses.prior.base_trajectories import BaseTrajectories, TrajectoryMatching
from trainer.losses.prior.prior_matching import PriorMatching
from trainer.losses.prior.prompt_alignment import PromptAlignment
from trainer.losses.term import LossTerm
from trainer.losses.token_attention import TokenAttention
from trainer.losses.token_covariance import TokenCovariance
from trainer.losses.token_norm import TokenNorm
from trainer.losses.weighting import TimestepWeighting
from trainer.randomness import NamedGenerators
from trainer.tokens.concept_tokens import ConceptTokens
from trainer.trainables.part import Parts

CLASS_WORDS = {"face": "person", "object": "object", "style": "picture"}
"""Replacements of the trigger if no class word is given."""


def loss_terms(
    objective: ObjectiveSection,
    mask_floor: float,
    class_words: Mapping[str, str],
    family: ModelFamily,
    parts: Parts,
    tokens: ConceptTokens,
    generators: NamedGenerators,
    examples: Sequence[CachedExample],
) -> list[LossTerm]:
    """Return the terms of `objective`. `mask_floor`: resolved. `class_words`: as returned by `class_words_of`.
    `examples`: the training examples."""
    terms: list[LossTerm] = []
    if objective.token_attention_weight > 0:
        # must come before terms that run the denoiser again
        capture = AttentionCapture(family.denoiser)
        ids = tokens.placeholders.ids[0]
        terms.append(TokenAttention(capture, family.tokenizers[0], ids, objective.token_attention_weight))
    if objective.loss_type == "dco":
        assert objective.loss_weighting != "adaptive"
        weighting = TimestepWeighting(objective.loss_weighting, _gamma(objective))
        settings = (tokens.triggers, class_words, objective.dco_beta, weighting, mask_floor)
        terms.append(DirectConsistency(family, parts, *settings))
    else:
        terms.insert(0, _denoising(objective, mask_floor))
    if objective.prior_matching_weight > 0:
        terms.append(_prior_matching(objective, class_words, family, parts, generators, examples))
    if objective.prompt_alignment_weight > 0:
        terms.append(_prompt_alignment(objective, class_words, family, parts, tokens, generators))
    if objective.adapter_l1_weight > 0:
        terms.append(AdapterL1.of(parts, ("lora", "text_encoders"), objective.adapter_l1_weight))
    vocabularies = tokens.placeholders.vocabularies
    if objective.token_norm_weight > 0:
        terms.append(TokenNorm.of(tokens.parameters, vocabularies, objective.token_norm_weight))
    if objective.token_covariance_weight > 0:
        terms.append(TokenCovariance.of(tokens.parameters, vocabularies, objective.token_covariance_weight))
    return terms


def _denoising(objective: ObjectiveSection, mask_floor: float) -> LossTerm:
    if objective.loss_weighting == "adaptive":
        return AdaptiveMeanSquaredError(mask_floor)
    weighting = (objective.loss_weighting, _gamma(objective), mask_floor)
    if objective.loss_type == "huber":
        return Huber(objective.huber_delta, objective.huber_schedule, *weighting)
    return MeanSquaredError(*weighting)


def _gamma(objective: ObjectiveSection) -> float:
    return objective.p2_gamma if objective.loss_weighting == "p2" else objective.min_snr_gamma


def class_words_of(preparation: DataConfig) -> dict[str, str]:
    """Return class words by trigger word; a general word if none is given."""
    general = CLASS_WORDS[preparation.concept_mode]
    return {trigger: word or general for trigger, word in preparation.class_words.items()}


def _prior_matching(
    objective: ObjectiveSection,
    class_words: Mapping[str, str],
    family: ModelFamily,
    parts: Parts,
    generators: NamedGenerators,
    examples: Sequence[CachedExample],
) -> LossTerm:
    draws, weight, interval = (
        generators["prior_prompts"],
        objective.prior_matching_weight,
        objective.prior_matching_interval,
    )
    on, kept = objective.prior_matching_on, objective.prior_prompts
    near = PriorMatching(family, parts, class_words, kept if on == "everything" else (), draws, weight, interval,
                         on == "captions", generators.share)  # fmt: skip
    if on != "trajectories":
        return near
    noise = generators.fresh("prior_trajectories")
    return TrajectoryMatching(near, BaseTrajectories.like(examples[0], kept, family, noise))


def _prompt_alignment(
    objective: ObjectiveSection,
    class_words: Mapping[str, str],
    family: ModelFamily,
    parts: Parts,
    tokens: ConceptTokens,
    generators: NamedGenerators,
) -> PromptAlignment:
    settings = (objective.prompt_alignment_weight, objective.prompt_alignment_interval, generators.share)
    draws = generators["prompt_alignment"]
    return PromptAlignment(family, parts, objective.target_prompts, tokens.triggers, class_words, draws, *settings)
